"""Sheets of what a teacher tells: the distilled regions with its words, and its relations beside the student's.

N regions. Images are uint8 arrays (h, w, 3) in RGB. Sheets are laid out in inches from the top left.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from dk_detr.explain.pictures.style import (
    DPI,
    FAINT,
    HEADING,
    INK,
    NOVEL_HATCH,
    SMALL,
    TITLE,
    draw_box,
    halo,
    kinds_of_words,
    label_of,
    show_image,
)
from dk_detr.explain.teaching import WORDS, Teaching
from dk_detr.visualization.curves import rendered
from dk_detr.visualization.pictures import Colour, category_colour

SHOWN = 24  # regions in a picture, the first of their image; the numbers have all
MARGIN, HEAD = 0.35, 1.0  # inches
CARD = (4.0, 1.5)  # inches of a region with its words
CROP = 1.2  # inches
COLUMNS = 3  # of cards
IMAGE_SIDE = 5.2  # inches
MATRIX = 6.2  # inches
STRIP = 1.3  # cells of a matrix that are taken by what the regions show
WITH_NUMBER = 1.2  # lengths of the longest bar that a bar and its number take
NAMES = 2.1  # inches of words beside bars
SIMILARITY = "Blues"


class _Sheet:
    """A figure with panels at places in inches (left, top, width, height)."""

    def __init__(self, width: float, height: float, title: str, source: str) -> None:
        self.size = width, height
        self.figure = Figure(figsize=self.size, dpi=DPI)
        self.write(MARGIN, 0.32, title, TITLE, INK, fontweight="bold")
        self.write(MARGIN, 0.66, source, SMALL + 1.5, FAINT)

    def panel(self, left: float, top: float, width: float, height: float) -> Axes:
        wide, high = self.size
        return self.figure.add_axes((left / wide, 1 - (top + height) / high, width / wide, height / high))

    def write(self, left: float, top: float, text: str, size: float, colour: str, **more: Any) -> None:
        wide, high = self.size
        self.figure.text(left / wide, 1 - top / high, text, fontsize=size, color=colour, va="center", **more)


def draw_regions(rgb: np.ndarray, teaching: Teaching, source: str) -> np.ndarray:
    """A picture (H, W, 3) uint8: where the teacher looked, and which words it and the student have for it.

    Args:
        rgb: the image of the explanation. source: what stands below the title, such as the image's name.
    """
    shown = _shown(teaching)
    rows = math.ceil(len(shown) / COLUMNS)
    left = MARGIN + IMAGE_SIDE + 0.45
    height = HEAD + max(rows * CARD[1], IMAGE_SIDE) + 0.85
    said = f"{source}   ·   {_number_of(teaching)}, chosen as in training on an image without labels"
    sheet = _Sheet(left + COLUMNS * CARD[0] + 0.1, height, "What does CLIP say of the distilled regions?", said)
    high, wide = rgb.shape[:2]
    scale = IMAGE_SIDE / max(high, wide)
    image = sheet.panel(MARGIN, HEAD, wide * scale, high * scale)
    show_image(image, rgb)
    teacher, student = (shares.numpy() for shares in teaching.word_shares())
    boxes = [teaching.boxes_xyxy_abs[index].tolist() for index in shown]
    names = [teaching.vocabulary.names[int(teacher[index].argmax())] for index in shown]
    _draw_numbered(image, boxes, [index + 1 for index in shown], [category_colour(name) for name in names])
    for place, index in enumerate(shown):
        x, y = left + place % COLUMNS * CARD[0], HEAD + place // COLUMNS * CARD[1]
        _draw_crop(sheet.panel(x, y, CROP, CROP), rgb, boxes[place], index + 1)
        _draw_words(
            sheet.panel(x + CROP + 0.1, y, CARD[0] - CROP - 0.4, CROP), teaching, teacher[index], student[index]
        )
    text = (
        f"bars: CLIP's {WORDS} best words, their shares of a softmax over {len(teaching.vocabulary)} words "
        f"(temperature {teaching.word_temperature:g}); → the student's best word, by the same softmax"
    )
    sheet.write(left, height - 0.35, text, SMALL, FAINT)
    image.legend(
        handles=kinds_of_words(),
        loc="upper left",
        bbox_to_anchor=(-0.02, -0.01),
        fontsize=SMALL,
        frameon=False,
        ncols=2,
    )
    return rendered(sheet.figure)


def draw_relations(rgb: np.ndarray, teaching: Teaching, source: str) -> np.ndarray:
    """A picture (H, W, 3) uint8: how much the regions resemble one another to the teacher and to the student, as RKD
    compares them. Arguments: see `draw_regions`."""
    shown = _shown(teaching)
    bars_left = MARGIN + 2 * (MATRIX + 0.4) + 0.1
    top = HEAD + 0.45
    height = top + MATRIX + 0.95
    said = f"{source}   ·   {_number_of(teaching)}; similar ones stand side by side"
    sheet = _Sheet(bars_left + NAMES + 2.1, height, "Does the student see the relations that CLIP sees?", said)
    matrices = [matrix.numpy()[np.ix_(shown, shown)] for matrix in teaching.relations()]
    largest = float(max(matrix.max() for matrix in matrices))
    crops = [_crop(rgb, teaching.boxes_xyxy_abs[index].tolist()) for index in shown]
    for number, (name, matrix) in enumerate(zip(("teacher: CLIP", "student: the detector"), matrices)):
        panel = sheet.panel(MARGIN + number * (MATRIX + 0.4), top, MATRIX, MATRIX)
        _draw_matrix(panel, matrix, crops, [index + 1 for index in shown], largest)
        panel.set_title(name, fontsize=HEADING, color=INK, loc="left", fontweight="bold", pad=6)
    scale = sheet.panel(MARGIN + 0.4, top + MATRIX + 0.25, 3.0, 0.14)
    bar = Colorbar(scale, panel.images[-1], orientation="horizontal")
    bar.outline.set_visible(False)  # type: ignore[operator]
    scale.tick_params(labelsize=SMALL, length=2)
    text = (
        "how much the region of the row resembles that of the column: "
        f"softmax over a row of cosine / {teaching.temperature:g}; rows sum to 1"
    )
    sheet.write(MARGIN + 3.65, top + MATRIX + 0.32, text, SMALL, FAINT)
    first, rows = MATRIX * STRIP / (len(shown) + STRIP), MATRIX * len(shown) / (len(shown) + STRIP)
    _draw_divergences(sheet.panel(bars_left + NAMES, top + first, 1.6, rows), teaching, shown)
    pair = "KL(teacher ‖ student)" if teaching.direction == "teacher_student" else "KL(student ‖ teacher)"
    sheet.write(bars_left, top - 0.14, "Where do they differ?", HEADING, INK, fontweight="bold")
    mean = float(teaching.divergences().mean())
    sheet.write(bars_left, top + 0.12, f"{pair} of each row; their mean, the loss: {mean:.3f}", SMALL, FAINT)
    return rendered(sheet.figure)


def _shown(teaching: Teaching) -> list[int]:
    """The regions of a picture: the first of their image, in the order of the explanation."""
    return sorted(teaching.queries.argsort()[:SHOWN].tolist())


def _number_of(teaching: Teaching) -> str:
    number = len(teaching)
    return f"the first {SHOWN} of {number} distilled regions" if number > SHOWN else f"{number} distilled regions"


def _crop(rgb: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """What a box shows, at least one pixel."""
    x0, y0, x1, y1 = (math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3]))
    crop = rgb[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return crop if crop.size else rgb[-1:, -1:]


def _draw_numbered(
    panel: Axes, boxes: Sequence[Sequence[float]], numbers: Sequence[int], colours: Sequence[Colour]
) -> None:
    """Each number stands on its box, where it is farthest from those that stand already, once all are drawn."""
    for box, colour in zip(boxes, colours):
        draw_box(panel, box, colour, 1.8)
    taken: list[np.ndarray] = []
    for (x0, y0, x1, y1), number in zip(boxes, numbers):
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        places = np.array([(x0, y0), (x1, y0), (x0, y1), (x1, y1), (x, y0), (x, y1), (x0, y), (x1, y)])
        apart = [min((float(np.linalg.norm(place - other)) for other in taken), default=0.0) for place in places]
        taken.append(places[int(np.argmax(apart))])
        x, y = taken[-1].tolist()
        mark = panel.text(x, y, str(number), fontsize=SMALL, fontweight="bold", color=INK, va="center", ha="center")
        mark.set_path_effects(halo(2.5))


def _draw_crop(panel: Axes, rgb: np.ndarray, box: Sequence[float], number: int) -> None:
    show_image(panel, _crop(rgb, box))
    panel.set_anchor("NE")
    mark = panel.annotate(
        str(number), (0, 1), (4, -4), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL + 1,
        fontweight="bold", color=INK, va="top",
    )  # fmt: skip
    mark.set_path_effects(halo(3))


def _draw_words(panel: Axes, teaching: Teaching, teacher: np.ndarray, student: np.ndarray) -> None:
    """Bars with their words on them: the teacher's best, and below a line the student's one. (K,) shares each."""
    words = [(int(word), float(teacher[word])) for word in np.argsort(-teacher, kind="stable")[:WORDS]]
    own = int(student.argmax())
    for row, (word, share) in enumerate([*words, (own, float(student[own]))]):
        place = row if row < len(words) else row + 0.25
        (bar,) = panel.barh(place, share, 0.82, color=(*category_colour(teaching.vocabulary.names[word]), 0.5))
        if teaching.vocabulary.novel[word]:
            bar.set(hatch=NOVEL_HATCH, edgecolor="#ffffff")
        name = label_of(teaching.vocabulary, word)
        texts = [
            panel.text(0.015, place, name if row < len(words) else f"→ {name}", fontsize=SMALL, va="center", color=INK),
            panel.text(WITH_NUMBER, place, f"{share:.2f}", fontsize=SMALL, va="center", ha="right", color=INK),
        ]
        for text in texts:
            text.set_path_effects(halo(2))
    panel.axhline(len(words) - 0.37, color="#d1d5db", linewidth=0.8)
    panel.set(xlim=(0, WITH_NUMBER), ylim=(len(words) + 0.7, -0.45), xticks=[], yticks=[])
    panel.spines[:].set_visible(False)


def _draw_matrix(
    panel: Axes, matrix: np.ndarray, crops: Sequence[np.ndarray], numbers: Sequence[int], largest: float
) -> None:
    """(N, N) numbers in colours from 0 to `largest`, with what the regions show along both sides."""
    number = len(matrix)
    for index, crop in enumerate(crops):
        panel.imshow(crop, extent=(-STRIP + 0.06, -STRIP + 0.94, index + 0.94, index + 0.06), interpolation="bicubic")
        panel.imshow(crop, extent=(index + 0.06, index + 0.94, -STRIP + 0.94, -STRIP + 0.06), interpolation="bicubic")
    panel.imshow(
        matrix, SIMILARITY, norm=PowerNorm(0.5, 0, largest), extent=(0, number, number, 0), interpolation="nearest"
    )
    panel.set(xlim=(-STRIP, number), ylim=(number, -STRIP), aspect="auto", xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    size = min(SMALL, 90 / number)
    for index, name in enumerate(numbers):
        for place in ((-0.14, index + 0.5), (index + 0.5, -0.16)):
            panel.text(*place, str(name), fontsize=size, color=FAINT, ha="center", va="center")


def _draw_divergences(panel: Axes, teaching: Teaching, shown: Sequence[int]) -> None:
    """Of each row, beside the word that the teacher has for it."""
    divergences = teaching.divergences().numpy()
    words = teaching.word_shares()[0].argmax(1).tolist()
    places = np.arange(len(shown)) + 0.5
    bars = panel.barh(places, divergences[shown], 0.6, color="#0072B2")
    panel.bar_label(bars, [f"{value:.2f}" for value in divergences[shown]], padding=3, fontsize=SMALL, color=INK)
    names = [f"{label_of(teaching.vocabulary, words[index], 24)}  {index + 1}" for index in shown]
    panel.set_yticks(places, names, fontsize=SMALL)
    panel.set(xlim=(0, 1.25 * max(float(divergences.max()), 1e-6)), ylim=(len(shown), 0), xticks=[])
    panel.tick_params(axis="y", length=0)
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color("#d1d5db")
