"""The picture of an analysis of errors: what the best detections are, and what oracles would add, by group of words."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dk_detr.visualization.curves import rendered

Bars = Mapping[str, Mapping[str, float]]  # group -> part -> its length

# An error has the same colour in both panels.
SHARE_COLOURS = ("#2f855a", "#2b6cb0", "#90cdf4", "#dd6b20", "#f6ad55", "#b83280", "#a0aec0", "#e2e8f0")
GAIN_COLOURS = ("#2b6cb0", "#f6ad55", "#b83280", "#dd6b20", "#a0aec0", "#e2e8f0")
LEGEND: dict[str, Any] = {"ncols": 3, "fontsize": 8, "frameon": False}
HEIGHT_OF_GROUP = 0.45  # inches
SMALLEST_WRITTEN = 0.05  # of the longest bar: shorter parts have no room for a number


def draw_errors(shares: Bars, gains: Bars, title: str) -> np.ndarray:
    """A picture (H, W, 3) uint8 with two panels, and in each a bar for each group, the first on top.

    Args:
        shares: in per cent; what the best detections of each group are. gains: in points; the AP50 that each oracle
            would add. They hide one another, so that the length of their bar is no AP. Numbers that are nan are left
            out.
    """
    figure = Figure(figsize=(13, 2.6 + HEIGHT_OF_GROUP * len(shares)), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=12)
    left, right = figure.subplots(1, 2)
    _draw_bars(left, shares, SHARE_COLOURS, "the n best detections of a word with n objects", "%")
    left.set_xlim(0, 100)
    _draw_bars(right, gains, GAIN_COLOURS, "what would be added to AP50 with …", "points, each alone")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", **LEGEND)
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", **LEGEND)
    return rendered(figure)


def _draw_bars(panel: Axes, bars: Bars, colours: tuple[str, ...], title: str, unit: str) -> None:
    lengths = np.nan_to_num(np.array([list(parts.values()) for parts in bars.values()]))
    starts, places = np.cumsum(lengths, axis=1) - lengths, np.arange(len(bars))
    smallest = SMALLEST_WRITTEN * lengths.sum(axis=1).max()
    for part, colour, start, length in zip(next(iter(bars.values())), colours, starts.T, lengths.T):
        drawn = panel.barh(places, length, 0.7, start, color=colour, label=part)
        panel.bar_label(drawn, [f"{n:.0f}" if n > smallest else "" for n in length], label_type="center", fontsize=8)
    panel.set_yticks(places, list(bars), fontsize=9)
    panel.invert_yaxis()
    panel.set_title(title, fontsize=11)
    panel.set_xlabel(unit, fontsize=9)
    panel.tick_params(axis="x", labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)
