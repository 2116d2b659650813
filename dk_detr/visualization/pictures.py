"""Pictures of detections: boxes with readable labels, one colour per category, novel names marked with a star.

Images are uint8 arrays (H, W, 3) in RGB; boxes are xyxy in pixels of the image they are drawn on.
"""

from __future__ import annotations

import colorsys
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer
from matplotlib import font_manager
from matplotlib.text import Text
from PIL import Image, ImageDraw, ImageFont

from dk_detr.language import readable
from dk_detr.structures import Vocabulary
from dk_detr.utils import atomic_file
from dk_detr.visualization.fonts import FIRST, make_drawable

Colour = tuple[float, float, float]

NOVEL_MARK = "★"
LEGEND = f"{NOVEL_MARK}  dashed: novel, no box of this category in training        solid: base category"
READABLE_SIDE = 480  # pixels; the shorter side of a picture with labels, smaller images are enlarged
LARGEST_SIDE = 8192  # pixels of a picture; a strip of 1 x 4000 with its shorter side at 480 would take gigabytes
TINT = 0.45  # share of a mask's colour
INK, PAPER = (38, 38, 44), (255, 255, 255)


@dataclass(frozen=True)
class LabelledBoxes:
    """Boxes with the words to write on them.

    Attributes:
        boxes_xyxy_abs: (N, 4).
        names: N category names as the vocabulary spells them.
        novel: N, True where the name never had a box in training.
        scores: N in [0, 1], or None for ground truth.
        masks: (N, H, W) bool, of the size of the image, or None for boxes alone.
    """

    boxes_xyxy_abs: np.ndarray
    names: Sequence[str]
    novel: Sequence[bool]
    scores: Sequence[float] | None = None
    masks: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len({len(self.boxes_xyxy_abs), len(self.names), len(self.novel), len(self.labels())}) > 1:
            raise ValueError("boxes, names, novel and scores must have the same length.")

    def labels(self) -> list[str]:
        """What is written on each box: "★ red star 87%"."""
        marks = [f"{NOVEL_MARK} " if novel else "" for novel in self.novel]
        percents = [""] * len(self.names) if self.scores is None else [f" {score:.0%}" for score in self.scores]
        return [f"{mark}{readable(name)}{percent}" for mark, name, percent in zip(marks, self.names, percents)]


def confident_boxes(instances: Instances, vocabulary: Vocabulary, threshold: float) -> LabelledBoxes:
    """The detections of a model with at least this score, with the names and the novel mask of its vocabulary.

    One query may be several classes; a picture shows the best of those that share a box.
    """
    kept = instances[instances.scores >= threshold].to("cpu")
    boxes_xyxy_abs, scores = kept.pred_boxes.tensor.numpy(), kept.scores.numpy()
    shown = best_of_each_box(boxes_xyxy_abs, scores)
    classes = kept.pred_classes.numpy()[shown]
    names = [vocabulary.names[index] for index in classes]
    novel = vocabulary.novel.numpy()[classes].tolist()
    masks = kept.pred_masks.numpy()[shown] if kept.has("pred_masks") else None
    return LabelledBoxes(boxes_xyxy_abs[shown], names, novel, scores[shown].tolist(), masks)


def best_of_each_box(boxes_xyxy_abs: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Indices, best score first, without those whose very box occurred before."""
    order = np.argsort(-scores, kind="stable")
    _, first = np.unique(boxes_xyxy_abs[order].reshape(-1, 4), axis=0, return_index=True)
    return order[np.sort(first)]


def category_colour(name: str) -> Colour:
    """RGB in [0, 1]; depends on the name alone, so a category keeps its colour over images, runs and vocabularies."""
    code = zlib.crc32(name.encode())
    hue = code % 997 / 997
    saturation, value = ((0.85, 0.95), (0.60, 1.00), (0.95, 0.75))[code // 997 % 3]
    return colorsys.hsv_to_rgb(hue, saturation, value)


def draw_boxes(
    image: np.ndarray, boxes: LabelledBoxes, shortest_side: int = READABLE_SIDE, lines_per_side: int = 34
) -> np.ndarray:
    """The image with its boxes and labels, and its masks where there are any.

    Args:
        shortest_side: smaller images are enlarged to it, in pixels; but no side is drawn larger than LARGEST_SIDE.
        lines_per_side: lines of label text that would fit along the shorter side; fewer lines, larger letters.
    """
    scale = _scale(image.shape[:2], shortest_side)
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    scaled = np.asarray(boxes.boxes_xyxy_abs, dtype=np.float64).reshape(-1, 4) * scale
    colours = [category_colour(name) for name in boxes.names]
    order = np.argsort(-_areas(scaled), kind="stable")  # small ones on top
    if boxes.masks is not None:
        image = tinted(image, boxes.masks[order], [colours[i] for i in order])
    enlarged = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))
    canvas = _LabelVisualizer(enlarged, lines_per_side)
    for i in order:
        canvas.draw_outline(scaled[i], colours[i], boxes.novel[i])
    for i, label in enumerate(boxes.labels()):
        canvas.draw_label(label, scaled, i, colours[i])
    return canvas.output.get_image()


def _scale(size: tuple[int, int], shortest_side: int) -> float:
    return min(max(1.0, shortest_side / min(size)), LARGEST_SIDE / max(size))


def tinted(image: np.ndarray, masks: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """The image with (N, H, W) masks laid over it, one after the other, in their colours."""
    result = image.astype(np.float64)
    for mask, colour in zip(masks.astype(bool), colours):
        result[mask] = (1 - TINT) * result[mask] + TINT * 255 * np.array(colour)
    return result.round().astype(np.uint8)


def with_legend(picture: np.ndarray) -> np.ndarray:
    """The picture over a strip that says what the star means."""
    width = picture.shape[1]
    size = _fitting(LEGEND, max(13, width // 84), width)
    strip = Image.new("RGB", (width, round(2.2 * size)), PAPER)
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), LEGEND, fill=INK, font=_font(size), anchor="mm")
    return np.concatenate([picture, np.asarray(strip)])


@dataclass(frozen=True)
class Comparison:
    """One image with what is there and what was found."""

    image: np.ndarray
    truth: LabelledBoxes
    detections: LabelledBoxes


def comparison_grid(comparisons: Sequence[Comparison], columns: int = 2, tile: int = 380) -> np.ndarray:
    """Pairs of tiles, ground truth left and detections right, `columns` pairs in a row, headings above, legend below.

    Args:
        tile: side in pixels of the square into which each image is fitted.
    """
    columns = min(columns, len(comparisons))
    gap, between, head = tile // 40, tile // 9, tile // 9
    pair = 2 * tile + gap
    rows = -(-len(comparisons) // columns)
    size = (columns * pair + (columns + 1) * between, head + rows * (tile + gap))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, comparison in enumerate(comparisons):
        left, top = between + i % columns * (pair + between), head + i // columns * (tile + gap)
        sheet.paste(_tile(comparison.image, comparison.truth, tile), (left, top))
        sheet.paste(_tile(comparison.image, comparison.detections, tile), (left + tile + gap, top))
        if i < columns:
            for offset, title in ((tile / 2, "ground truth"), (pair - tile / 2, "detections")):
                draw.text((left + offset, head / 2), title, fill=INK, font=_font(tile // 19), anchor="mm")
    return with_legend(np.asarray(sheet))


def save_picture(picture: np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a picture; the suffix chooses the format, and an interrupted write leaves no half picture."""
    kind = Image.registered_extensions()[Path(path).suffix.lower()]
    with atomic_file(path) as part:
        Image.fromarray(picture).save(part, kind, quality=92)


class _LabelVisualizer(Visualizer):
    """Detectron2's Visualizer with labels that keep out of each other's way."""

    def __init__(self, image: np.ndarray, lines_per_side: int) -> None:
        super().__init__(image)
        line_height = max(14.0, min(image.shape[:2]) / lines_per_side)  # pixels
        self._default_font_size = 0.72 * line_height  # points, 72 in the 100 pixels of an inch; also sets line widths
        self._placed: list[np.ndarray] = []  # xyxy of the labels drawn so far

    def draw_outline(self, box: np.ndarray, colour: Colour, novel: bool) -> None:
        """A line in the category's colour over a dark edge (base), or dashed over a white one (novel)."""
        edge, strength = ("white", 0.95) if novel else ("black", 0.45)
        self.draw_box(box, alpha=strength, edge_color=edge)
        under = self.output.ax.patches[-1]
        under.set_linewidth(under.get_linewidth() + 1.6)
        self.draw_box(box, alpha=1.0, edge_color=colour, line_style=(0, (3.2, 1.6)) if novel else "-")

    def draw_label(self, label: str, boxes: np.ndarray, index: int, colour: Colour) -> None:
        """Write the label of box `index` where it covers least of other labels and boxes."""
        text = self._chip(label, colour)
        size = self._size_of(text)
        places = _places_around(boxes[index], size, (self.output.width, self.output.height))
        others = np.delete(boxes, index, axis=0)
        hidden = [20 * _covered(place, self._placed) + _covered(place, others) for place in places]
        place = places[int(np.argmin(hidden + np.arange(len(places))))]  # the earlier place where all else is equal
        pad = self._default_font_size * 0.25
        text.set_position((place[0] + pad, place[1] + pad))
        self._placed.append(place)

    def _chip(self, label: str, colour: Colour) -> Text:
        """Text on a rounded patch of the category's colour, black or white, whichever is easier to read."""
        light = np.dot(colour, (0.299, 0.587, 0.114)) > 0.55
        patch: dict[str, Any] = {"facecolor": colour, "edgecolor": "none", "alpha": 0.92}
        style = {"boxstyle": "round,pad=0.18,rounding_size=0.25"}
        chip = self.output.ax.text(
            0, 0, label, size=self._default_font_size, family=FIRST, color="black" if light else "white",
            bbox={**patch, **style}, verticalalignment="top", horizontalalignment="left", zorder=10, parse_math=False,
        )  # fmt: skip
        make_drawable(chip)
        return chip

    def _size_of(self, text: Text) -> np.ndarray:
        """Width and height of a chip in pixels."""
        extent = text.get_window_extent(self.output.canvas.get_renderer())
        return np.array([extent.width, extent.height]) + self._default_font_size * 0.5


def _places_around(box: np.ndarray, size: np.ndarray, limits: tuple[int, int]) -> list[np.ndarray]:
    """Where the label of a box may lie (xyxy), best first: above, below, inside at the top, inside at the bottom."""
    x0, y0, x1, y1 = box
    width, height = size
    corners = [(x, y) for y in (y0 - height, y1, y0, y1 - height) for x in (x0, x1 - width)]
    farthest = np.maximum(np.array(limits) - size, 0)
    inside = [np.clip(corner, 0, farthest) for corner in corners]
    return [np.concatenate([corner, corner + size]) for corner in inside]


def _covered(place: np.ndarray, boxes: Sequence[np.ndarray] | np.ndarray) -> float:
    """Area in hundreds of square pixels that a place shares with boxes."""
    if len(boxes) == 0:
        return 0.0
    others = np.stack(list(boxes))
    low, high = np.maximum(place[:2], others[:, :2]), np.minimum(place[2:], others[:, 2:])
    return float(np.clip(high - low, 0, None).prod(axis=1).sum()) / 100


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def _tile(image: np.ndarray, boxes: LabelledBoxes, side: int) -> Image.Image:
    """The drawn image, fitted into a white square."""
    drawn = Image.fromarray(draw_boxes(image, boxes, side, lines_per_side=25))
    drawn.thumbnail((side, side), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(drawn, ((side - drawn.width) // 2, (side - drawn.height) // 2))
    return square


def _font(size: int) -> ImageFont.FreeTypeFont:
    """The sans-serif that comes with Matplotlib: it has the star, whatever the machine has installed."""
    return ImageFont.truetype(font_manager.findfont(FIRST), size)


def _fitting(text: str, size: int, width: int) -> int:
    """The largest font size, at most `size`, with which the text is no wider than `width` pixels."""
    return max(6, min(size, int(size * 0.94 * width / _font(size).getlength(text))))
