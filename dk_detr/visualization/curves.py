"""Training curves from the `metrics.json` that Detectron2 writes: one JSON object a line, with its iteration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from dk_detr.visualization.fonts import make_drawable

History = dict[int, dict[str, float]]  # iteration -> metric -> value, in the order of iterations

# title of a panel: how the names of its losses begin. The first that fits takes the loss, so "loss_" takes the rest.
LOSS_PANELS = {
    "distillation": "loss_kd_",
    "proposal": "loss_proposal_",
    "masks": "loss_mask_",
    "denoising": "loss_dn_",
    "one-to-many": "loss_o2m_",
    "teacher detector": "loss_dd_",
    "detection": "loss_",
}
PANEL_ORDER = ("detection", "proposal", "masks", "denoising", "one-to-many", "distillation", "teacher detector")
KD_WEIGHT = "kd_weight"  # recorded where MODEL.KD.ANNEAL changes the weights of distillation
AP50_MARK = "bbox/AP50-"  # of several data sets, their name stands before it
MARKED: dict[str, Any] = {  # the style of scores; not clipped, so that a mark at 100 is whole
    "linewidth": 1.6, "marker": "o", "markersize": 4, "clip_on": False,
}  # fmt: skip
COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#b83280", "#6b46c1", "#718096")


def read_metrics(path: Path) -> History:
    """The history of a run; where an interrupted run was taken up again, what happened last is what counts.

    A line with a lower iteration than the one before tells of such a restart: what was written beyond it is void.
    A line that a kill cut short is left out.
    """
    history: History = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            continue
        iteration = int(values.pop("iteration"))
        for later in [i for i in history if i > iteration]:
            del history[later]
        history.setdefault(iteration, {}).update(values)
    return history


def series(history: History, name: str) -> tuple[list[int], list[float]]:
    """Iterations and values of one metric, where it was recorded and is a finite number."""
    points = [(i, values[name]) for i, values in history.items() if math.isfinite(values.get(name, math.nan))]
    return [i for i, _ in points], [value for _, value in points]


def metric_names(history: History) -> list[str]:
    """All metrics of a run, each once, in the order in which they appear."""
    return list(dict.fromkeys(name for values in history.values() for name in values))


def iterations_done(history: History) -> int:
    """How many iterations a run has trained."""
    iterations, _ = series(history, "time")
    return iterations[-1] + 1 if iterations else 0


def training_minutes(history: History) -> float:
    """Time spent in training: seconds an iteration, as each line reports them, times the iterations since the last."""
    iterations, seconds = series(history, "time")
    steps = np.diff(np.array([-1, *iterations]))
    return float(np.dot(steps, seconds)) / 60


def draw_curves(history: History) -> np.ndarray:
    """A picture (H, W, 3) uint8 with a panel each for the losses of detection, proposals and distillation, and for
    AP50 where it was evaluated."""
    panels = _loss_panels(history)
    ap50 = [name for name in metric_names(history) if AP50_MARK in name and series(history, name)[0]]
    count = max(len(panels) + bool(ap50), 1)
    rows, columns = (1, count) if count < 4 else (2, (count + 1) // 2)
    figure = Figure(figsize=(5 * columns, 3.5 * rows), dpi=130, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel, (title, names) in zip(axes, panels.items()):
        _draw_losses(panel, history, title, names)
    if ap50:
        _draw_ap50(axes[count - 1], history, ap50)
    for empty in axes[count:]:
        empty.set_visible(False)
    return rendered(figure)


def rendered(figure: Figure) -> np.ndarray:
    """The picture (H, W, 3) uint8 of a figure, without a display and without the global state of pyplot."""
    for text in figure.findobj(Text):
        make_drawable(text)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _loss_panels(history: History) -> Mapping[str, list[str]]:
    panels: dict[str, list[str]] = {title: [] for title in PANEL_ORDER}
    for name in metric_names(history):
        title = next((title for title, prefix in LOSS_PANELS.items() if name.startswith(prefix)), None)
        if title:
            panels[title].append(name)
    return {title: names for title, names in panels.items() if names}


def _draw_losses(panel: Axes, history: History, title: str, names: list[str]) -> None:
    for name, colour in zip(names, cycle(COLOURS)):
        label = name.removeprefix(LOSS_PANELS[title]).replace("_", " ")
        panel.plot(*series(history, name), color=colour, linewidth=1.6, label=label)
    panel.set_yscale("log")
    finish_panel(panel, f"{title} losses", "weighted loss")
    if title == "distillation" and series(history, KD_WEIGHT)[0]:
        _draw_kd_weight(panel.twinx(), history)


def _draw_kd_weight(panel: Axes, history: History) -> None:
    """On a scale of its own at the right, so that the losses are drawn as without it."""
    panel.plot(*series(history, KD_WEIGHT), color="#a0aec0", linewidth=1.2, linestyle="--")
    panel.set_ylim(bottom=0)
    panel.set_ylabel("factor on their weights (dashed)", fontsize=9)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _draw_ap50(panel: Axes, history: History, names: list[str]) -> None:
    for name, colour in zip(names, cycle(COLOURS)):
        label = name.replace(AP50_MARK, "")
        panel.plot(*series(history, name), color=colour, label=label, **MARKED)
    panel.set_ylim(0, 100)
    finish_panel(panel, "AP50 of base and novel categories", "points")


def finish_panel(panel: Axes, title: str, unit: str) -> None:
    """Titles, grid and legend of a panel whose curves run over iterations."""
    panel.set_title(title, fontsize=11)
    panel.set_xlabel("iteration", fontsize=9)
    panel.set_ylabel(unit, fontsize=9)
    panel.tick_params(labelsize=8)
    panel.set_xlim(left=0)
    panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    panel.grid(True, which="major", alpha=0.25, linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(fontsize=8, frameon=False)
