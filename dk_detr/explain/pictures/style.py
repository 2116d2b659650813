"""What the pictures of explanations share: images in panels, colours, chips of words. All colours but those of words
can be told apart by colour-blind readers; words have a name beside their colour, and novel ones a star and hatching.

Images are uint8 arrays (h, w, 3) in RGB; boxes are xyxy in pixels of the image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle
from matplotlib.text import Text

from dk_detr.language import readable
from dk_detr.structures import Vocabulary
from dk_detr.visualization.pictures import NOVEL_MARK, category_colour

INK, FAINT, PAPER = "#26262c", "#6b7280", "#ffffff"
BASE_FACE, NOVEL_HATCH = "#9ca3af", "////"
DPI = 130
TITLE, HEADING, SMALL = 17, 12.5, 9.5  # points
LONGEST_NAME = 26  # characters of a word beside a bar


def halo(width: float) -> list[patheffects.AbstractPathEffect]:
    """A white edge, so that a line or a letter can be seen on any image."""
    return [patheffects.Stroke(linewidth=width, foreground=PAPER), patheffects.Normal()]


def show_image(panel: Axes, image: np.ndarray, view: Sequence[float] | None = None, faded: bool = False) -> None:
    """An image, or the part of it that `view` (xyxy) names; `faded` in light grey, as a ground for colours."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = view or (0, 0, width, height)
    panel.imshow(fade(image) if faded else image, extent=(0, width, height, 0), interpolation="bicubic")
    panel.set_xlim(x0, x1)
    panel.set_ylim(y1, y0)
    panel.set_xticks([])
    panel.set_yticks([])
    panel.spines[:].set_color("#d1d5db")
    panel.set_anchor("NW")


def fade(image: np.ndarray) -> np.ndarray:
    """In light grey."""
    grey = image @ np.array([0.299, 0.587, 0.114])
    return np.repeat((0.5 * grey + 0.5 * 255).round().astype(np.uint8)[..., None], 3, axis=2)


def draw_box(panel: Axes, box: Sequence[float], colour: Any, width: float = 2.4, line: str = "-") -> None:
    """An outline with a white edge."""
    x0, y0, x1, y1 = box
    outline = Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, linestyle=line)
    outline.set_path_effects(halo(width + 2))
    panel.add_patch(outline)


def label_of(vocabulary: Vocabulary, word: int, longest: int = LONGEST_NAME) -> str:
    """ "★ red star", cut where it is long."""
    name = readable(vocabulary.names[word])
    name = name if len(name) <= longest else f"{name[: longest - 1]}…"
    return f"{NOVEL_MARK} {name}" if vocabulary.novel[word] else name


def draw_bars(
    panel: Axes, vocabulary: Vocabulary, words: Sequence[tuple[int, float]], strong: int | None, size: float
) -> None:
    """Bars of words in their colours, the first on top, each with its name and number. `strong`: the word in bold
    letters. `size`: of the letters, in points."""
    places, lengths = np.arange(len(words)), [score for _, score in words]
    bars = panel.barh(places, lengths, 0.72, edgecolor=INK, linewidth=0.6)
    for bar, (word, _) in zip(bars, words):
        bar.set_facecolor(category_colour(vocabulary.names[word]))
        if vocabulary.novel[word]:
            bar.set_hatch(NOVEL_HATCH)
    panel.bar_label(bars, [_number(score) for score in lengths], padding=4, fontsize=size, color=INK)
    panel.set_yticks(places, [label_of(vocabulary, word) for word, _ in words], fontsize=size)
    for tick, (word, _) in zip(panel.get_yticklabels(), words):
        tick.set_fontweight("bold" if word == strong else "normal")
    panel.set_ylim(len(words) - 0.45, -0.55)
    panel.tick_params(axis="y", length=0)
    panel.set_xticks([])
    panel.spines[["top", "right", "bottom"]].set_visible(False)
    panel.spines["left"].set_color("#d1d5db")


def kinds_of_words() -> list[Patch]:
    """For a legend of base and novel words."""
    return [
        Patch(facecolor=BASE_FACE, edgecolor=INK, linewidth=0.6, label="base: has boxes in training"),
        Patch(
            facecolor=BASE_FACE, edgecolor=INK, linewidth=0.6, hatch=NOVEL_HATCH, label=f"{NOVEL_MARK} novel: has none"
        ),
    ]


def set_heading(panel: Axes, title: str, subtitle: str = "") -> None:
    """A heading at the left, and below it what it takes to read the panel."""
    panel.set_title(title, fontsize=HEADING, color=INK, loc="left", pad=22 if subtitle else 8, fontweight="bold")
    if subtitle:
        beside: Text = panel.annotate(
            subtitle, (0, 1), (0, 7), xycoords="axes fraction", textcoords="offset points", fontsize=SMALL, color=FAINT
        )
        beside.set_in_layout(False)


def _number(score: float) -> str:
    return f"{score:.2f}" if score >= 0.005 else "<0.01" if score > 0 else "0"
