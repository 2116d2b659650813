"""The sheet of one detection: where its box comes from, which words compete, where each decoder layer looks.

Images are uint8 arrays (h, w, 3) in RGB; places are in pixels of the image.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from dk_detr.explain.attention import HeatMap, Look, Points
from dk_detr.explain.detections import DetectionExplained, ImageExplained, Step
from dk_detr.explain.pictures.style import (
    DPI,
    FAINT,
    HEADING,
    INK,
    SMALL,
    TITLE,
    draw_bars,
    draw_box,
    kinds_of_words,
    label_of,
    set_heading,
    show_image,
)
from dk_detr.visualization.curves import rendered
from dk_detr.visualization.pictures import category_colour

LEVEL_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")  # of Okabe and Ito
LEVEL_MARKS = "osD^v"
MARKS = 3000.0  # square points of all marks of a layer, which share them as they share the attention
SMALLEST_MARK = 6.0
PARTS = 12  # in which marks are drawn, so that no mark hides a much smaller one
SEEN = 0.9  # share of the attention that a view must hold
COLUMNS = 3, 6  # layers in a row, at least and at most
WIDTH = 16.0  # inches
HEAT = "inferno"
HEAT_STEPS = {"¼ of the most": 0.25, "½": 0.5, "the most attended cell": 1.0}
Box = tuple[float, float, float, float]


def draw_detection(
    rgb: np.ndarray, explained: ImageExplained, detection: DetectionExplained, source: str
) -> np.ndarray:
    """A picture (H, W, 3) uint8.

    Args:
        rgb: the image of the explanation. source: what stands below the title, such as the image's name.
    """
    layers = len(detection.looks)
    columns = min(max(layers, COLUMNS[0]), COLUMNS[1])
    rows = -(-layers // columns)
    heights = [0.75, 4.9, rows * (WIDTH / columns * 0.85 + 0.4) + 0.4, 0.85]
    figure = Figure(figsize=(WIDTH, sum(heights)), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.06))
    parts: Any = figure.subfigures(4, 1, height_ratios=heights)
    head, top, below, foot = parts
    view = view_of(detection, rgb.shape[:2])
    _draw_head(head, explained, detection, source)
    _draw_top(top, rgb, explained, detection, view)
    below.suptitle("Where does each layer look?", x=0.012, ha="left", fontsize=HEADING, color=INK, fontweight="bold")
    panels = below.subplots(rows, columns, squeeze=False).flatten()
    _draw_looks(panels, rgb, detection, view)
    _draw_key(foot, explained, detection, panels[layers] if layers < COLUMNS[0] else None)
    return rendered(figure)


def view_of(detection: DetectionExplained, size: tuple[int, int]) -> Box:
    """The part of an image (h, w) that holds the detection, all its steps, and most of what its query samples: a
    square, where the image has room for it. Of attention to all cells it is the whole image."""
    height, width = size
    corners = [step.place.numpy().reshape(-1, 2) for step in detection.steps]
    for look in detection.looks:
        if isinstance(look, HeatMap):
            return 0.0, 0.0, float(width), float(height)
        corners.append(_most_seen(look) * np.array([width, height]))
    places = np.concatenate(corners).clip(0, [width, height])
    low, high = places.min(0), places.max(0)
    side = max(1.25 * float((high - low).max()), 0.15 * max(size))
    x0, x1 = _interval(float((low + high)[0]) / 2, side, width)
    y0, y1 = _interval(float((low + high)[1]) / 2, side, height)
    return x0, y0, x1, y1


def _most_seen(look: Points) -> np.ndarray:
    """(n, 2) the points that weigh most, which together have the share SEEN."""
    share, xy = look.shares().flatten().cpu().numpy(), look.xy.reshape(-1, 2).cpu().numpy()
    order = np.argsort(-share)
    return xy[order[: int((share[order].cumsum() < SEEN).sum()) + 1]]


def _interval(middle: float, side: float, limit: float) -> tuple[float, float]:
    """Of a length, around a middle, in [0, limit]."""
    if side >= limit:
        return 0.0, float(limit)
    start = min(max(middle - side / 2, 0.0), limit - side)
    return start, start + side


def _draw_head(part: SubFigure, explained: ImageExplained, detection: DetectionExplained, source: str) -> None:
    words, colour = explained.vocabulary, category_colour(explained.vocabulary.names[detection.word])
    light = np.dot(colour, (0.299, 0.587, 0.114)) > 0.55
    title = f"{label_of(words, detection.word, 60)}  {detection.score:.2f}"
    chip = {"facecolor": colour, "edgecolor": "none", "boxstyle": "round,pad=0.35,rounding_size=0.3"}
    part.text(
        0.012, 0.55, title, fontsize=TITLE, fontweight="bold", color="black" if light else "white", va="center",
        bbox=chip,
    )  # fmt: skip
    said = f"{source}   ·   query {detection.query}"
    if explained.fused:
        said += "   ·   score fused with CLIP's, bars are the detector's own"
    part.text(0.988, 0.55, said, fontsize=SMALL + 1.5, color=FAINT, va="center", ha="right")


def _draw_top(
    part: SubFigure, rgb: np.ndarray, explained: ImageExplained, detection: DetectionExplained, view: Box
) -> None:
    whole, steps, words = part.subplots(1, 3, width_ratios=[1, 1, 1])
    show_image(whole, rgb)
    draw_box(whole, detection.box_xyxy_abs.tolist(), category_colour(explained.vocabulary.names[detection.word]))
    zoomed = view != (0.0, 0.0, float(rgb.shape[1]), float(rgb.shape[0]))
    if zoomed:
        draw_box(whole, view, INK, 1.2, ":")
    set_heading(whole, "What was found?", "dotted: the part that the other panels show" if zoomed else " ")
    show_image(steps, rgb, view)
    _draw_steps(steps, detection.steps)
    set_heading(words, "Which words compete?", "scores of this query for its best words")
    draw_bars(words, explained.vocabulary, detection.words, detection.word, 11)
    words.set_xlim(0, 1.18 * max(score for _, score in detection.words) or 1)
    _legend_below(words, kinds_of_words(), 2)


def _draw_steps(panel: Axes, steps: Sequence[Step]) -> None:
    colours = step_colours(len(steps))
    for number, (step, colour) in enumerate(zip(steps, colours)):
        place = step.place.tolist()
        if len(place) == 2:
            panel.plot(*place, "P", color=colour, markersize=13, markeredgecolor="white", markeredgewidth=1.5)
        else:
            starts = number == 0 and not step.name.startswith("layer")
            draw_box(panel, place, colour, 2.0 if number + 1 < len(steps) else 3.2, "--" if starts else "-")
    lines = [Line2D([], [], color=c, linewidth=3.2, label=s.name) for s, c in zip(steps, colours)]
    _legend_below(panel, lines, 4)
    first = steps[0].name
    set_heading(
        panel, "Where does its box come from?", "layer by layer" if first == "layer 1" else f"from its {first} on"
    )


def _legend_below(panel: Axes, handles: Sequence[Artist], columns: int) -> None:
    panel.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=columns, fontsize=SMALL, frameon=False,
        handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def step_colours(number: int) -> list[tuple[float, float, float, float]]:
    """From light to dark, the last for the box that is found."""
    return [matplotlib.colormaps["viridis"](0.95 - 0.9 * i / max(number - 1, 1)) for i in range(number)]


def _draw_looks(panels: Sequence[Axes], rgb: np.ndarray, detection: DetectionExplained, view: Box) -> None:
    starts = len(detection.steps) - len(detection.looks)
    colours = step_colours(len(detection.steps))
    for number, (panel, look) in enumerate(zip(panels, detection.looks)):
        show_image(panel, rgb, view, faded=True)
        _draw_look(panel, look, rgb.shape[:2])
        draw_box(panel, detection.steps[starts + number].place.tolist(), colours[starts + number], 2.0)
        panel.set_title(f"layer {number + 1}", fontsize=SMALL + 1.5, color=INK, loc="left")
    for panel in panels[len(detection.looks) :]:
        panel.set_visible(False)


def _draw_look(panel: Axes, look: Look, size: tuple[int, int]) -> None:
    height, width = size
    if isinstance(look, HeatMap):
        heat = look.shares().cpu().numpy()
        colours = heat_colours(heat / heat.max())
        panel.imshow(colours, extent=(0, width, height, 0), interpolation="bicubic")
        return
    share, xy = look.shares().cpu().numpy(), look.xy.cpu().numpy() * np.array([width, height])
    level = np.broadcast_to(np.arange(share.shape[1])[None, :, None], share.shape)
    for part in np.array_split(np.argsort(-share, axis=None), PARTS):  # small ones on top
        for number in range(share.shape[1]):
            chosen = part[level.flat[part] == number]
            colour, mark = level_style(number)
            x, y = xy.reshape(-1, 2)[chosen, 0], xy.reshape(-1, 2)[chosen, 1]
            area = np.maximum(MARKS * share.flat[chosen], SMALLEST_MARK)
            panel.scatter(x, y, s=area, c=colour, marker=mark, edgecolors="white", linewidths=0.4, zorder=3)


def heat_colours(heat: np.ndarray) -> np.ndarray:
    """(…) in [0, 1] -> (…, 4) RGBA: the less, the clearer."""
    colours = np.asarray(matplotlib.colormaps[HEAT](heat))
    colours[..., 3] = 0.9 * heat
    return colours


def level_style(level: int) -> tuple[str, str]:
    """Colour and mark of a feature level."""
    return LEVEL_COLOURS[level % len(LEVEL_COLOURS)], LEVEL_MARKS[level % len(LEVEL_MARKS)]


def _draw_key(figure: SubFigure, explained: ImageExplained, detection: DetectionExplained, spare: Axes | None) -> None:
    """What marks and colours mean: where a layer more would stand, if there is room, else below."""
    box = Line2D([], [], color=INK, linewidth=2.0, label="box that the layer predicts")
    largest = max(float(look.shares().max()) for look in detection.looks)
    handles: list[Artist]
    if isinstance(detection.looks[0], HeatMap):
        handles = [
            Patch(facecolor=tuple(heat_colours(np.array(share)).tolist()), edgecolor=FAINT, linewidth=0.4, label=label)
            for label, share in HEAT_STEPS.items()
        ]
        said = "mean over the heads; one cell has", f"at most {largest:.1%} of a layer's attention"
    else:
        handles = [_mark(level, shape) for level, shape in enumerate(explained.levels)]
        said = "area of a mark: its share of the", f"layer's attention, at most {largest:.1%}"
    handles = [*handles, box]
    if spare is None:
        place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (0.005, 0.72), "ncols": len(handles)}
        figure.legend(handles=handles, fontsize=SMALL + 1, frameon=False, **place)
        figure.text(0.012, 0.25, " ".join(said), fontsize=SMALL + 1, color=FAINT, va="center")
        return
    spare.set_visible(True)
    spare.axis("off")
    spare.legend(handles=handles, loc="upper left", fontsize=SMALL + 1.5, frameon=False, labelspacing=0.9)
    for number, line in enumerate(said):
        height = 0.9 - 0.08 * len(handles) - 0.06 * number
        spare.text(0.03, height, line, fontsize=SMALL + 1.5, color=FAINT, va="top", transform=spare.transAxes)


def _mark(level: int, shape: tuple[int, int]) -> Line2D:
    colour, mark = level_style(level)
    label = f"level {level + 1}: {shape[1]}×{shape[0]} cells"
    return Line2D([], [], color=colour, marker=mark, linestyle="", markersize=8, markeredgecolor="white", label=label)
