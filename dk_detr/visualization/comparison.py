"""The picture and the table of a comparison."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tabulate import tabulate

from dk_detr.visualization.curves import (
    COLOURS,
    MARKED,
    History,
    finish_panel,
    iterations_done,
    metric_names,
    rendered,
    series,
    training_minutes,
)

Curve = tuple[list[int], list[float]]


def curve_of(history: History, metric: str) -> Curve:
    """Iterations and values of a metric of boxes, such as "AP50-base"; of several data sets, the first.

    Raises: ValueError for one that was not recorded where others were.
    """
    names = [name for name in metric_names(history) if "bbox/" in name]
    name = next((name for name in names if name.endswith(f"bbox/{metric}")), metric)
    if names and name not in names:
        known = ", ".join(dict.fromkeys(name.partition("bbox/")[2] for name in names))
        raise ValueError(f'--metric "{metric}" was not recorded; these were: {known}.')
    iterations, values = series(history, name)
    return [iteration + 1 for iteration in iterations], values


def draw(panels: Mapping[str, Mapping[str, Curve]]) -> np.ndarray:
    """A picture (H, W, 3) uint8: for each title a panel with the curves of the runs, from 0 to 100.

    Args:
        panels: title -> name of the run -> its curve.
    """
    figure = Figure(figsize=(6 * len(panels), 4), dpi=130, layout="constrained")
    runs = list(dict.fromkeys(name for curves in panels.values() for name in curves))
    colours = dict(zip(runs, cycle(COLOURS)))
    for panel, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        _draw_panel(panel, title, curves, colours)
    return rendered(figure)


def _draw_panel(panel: Axes, title: str, curves: Mapping[str, Curve], colours: Mapping[str, str]) -> None:
    for name, (iterations, values) in curves.items():
        panel.plot(iterations, values, color=colours[name], label=name, **MARKED)
    panel.set_ylim(0, 100)
    finish_panel(panel, title, "points")


def table(
    histories: Mapping[str, History],
    metrics: Sequence[str],
    changes: Mapping[str, Curve],
    millions: Mapping[str, float],
) -> str:
    """Markdown: a line for each run, its metrics halfway and at its end, its size and its time."""
    rows = []
    for name, history in histories.items():
        row: dict[str, str] = {"": name}
        for metric in metrics:
            _, values = curve_of(history, metric)
            if not values:
                continue
            half = values[(len(values) - 1) // 2]
            row[f"{metric}, halfway"], row[f"{metric}, end"] = f"{half:.1f}", f"{values[-1]:.1f}"
        if changes.get(name, ((), ()))[1]:
            row["matched anew, mean"] = f"{np.mean(changes[name][1]):.1f} %"
            row["matched anew, end"] = f"{changes[name][1][-1]:.1f} %"
        row["M parameters"] = f"{millions[name]:.2f}"
        row["s an iteration"] = f"{60 * training_minutes(history) / max(iterations_done(history), 1):.3f}"
        rows.append(row)
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, stralign="right")
