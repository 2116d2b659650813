"""The picture of a calibration: what the teacher's cosines are, and which probability the sigmoid gives them."""

from collections.abc import Mapping
from itertools import cycle

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dk_detr.structures import Calibration
from dk_detr.visualization.curves import COLOURS, rendered

BINS = 60


def draw_calibration(panels: Mapping[str, tuple[Mapping[str, np.ndarray], Calibration]]) -> np.ndarray:
    """A picture (H, W, 3) uint8.

    Args:
        panels: title -> (name of a sort of cosines -> its values, the sigmoid).
    """
    figure = Figure(figsize=(6 * len(panels), 4), dpi=130, layout="constrained")
    for panel, title in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        cosines, calibration = panels[title]
        _draw_panel(panel, f"{title}: {calibration}", cosines, calibration)
    return rendered(figure)


def _draw_panel(panel: Axes, title: str, cosines: Mapping[str, np.ndarray], calibration: Calibration) -> None:
    low, high = min(values.min() for values in cosines.values()), max(values.max() for values in cosines.values())
    bins = np.linspace(low, max(high, low + 1e-3), BINS)
    for (name, values), colour in zip(cosines.items(), cycle(COLOURS)):
        shares = np.full(len(values), 100 / len(values))
        panel.hist(values, bins.tolist(), weights=shares, color=colour, alpha=0.55, label=name)
    panel.set_title(title, fontsize=10)
    panel.set_xlabel("cosine of the teacher's embedding", fontsize=9)
    panel.set_ylabel("% of each sort", fontsize=9)
    panel.spines["top"].set_visible(False)
    probability = panel.twinx()
    probability.plot(bins, torch.sigmoid(calibration.logits(torch.from_numpy(bins))), color="black", label="sigmoid")
    probability.set_ylim(0, 1)
    probability.set_ylabel("probability", fontsize=9)
    of_both = zip(panel.get_legend_handles_labels(), probability.get_legend_handles_labels())
    handles, labels = (one + other for one, other in of_both)
    panel.legend(handles, labels, fontsize=8, frameon=False, loc="upper left")
