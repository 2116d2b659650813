"""The picture and the table of a comparison."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
Scores = Mapping[str, float]
BOXES, MASKS = "bbox/", "segm/"  # before the names of metrics


@dataclass(frozen=True)
class Compared:
    """What is shown of a config, over its seeds.

    Attributes:
        histories: of its runs. millions: of parameters.
        also: data set -> for each run the metrics that its weights reach there, of masks with "segm/" before.
        changes: of its runs, where queries are steady: objects matched to another query, in per cent.
    """

    histories: Sequence[History]
    millions: float
    also: Mapping[str, Sequence[Scores]] = field(default_factory=dict)
    changes: Sequence[Curve] = ()


def curve_of(history: History, metric: str) -> Curve:
    """Iterations and values of a metric of boxes, such as "AP50-base", or of masks, "segm/AP50-base"; of several data
    sets the first, or the one that is named, "mini_lvis_test/bbox/AP50-base".

    Raises: ValueError for one that was not recorded where others were.
    """
    wanted = metric if metric.startswith(MASKS) else f"{BOXES}{metric}"
    names = [name for name in metric_names(history) if BOXES in name or MASKS in name]
    name = metric if metric in names else next((name for name in names if name.endswith(wanted)), wanted)
    if names and name not in names:
        of_boxes = [name.partition(BOXES)[2] for name in names if BOXES in name]
        raise _not_recorded(metric, [*of_boxes, *(MASKS + n.partition(MASKS)[2] for n in names if MASKS in n)])
    iterations, values = series(history, name)
    return [iteration + 1 for iteration in iterations], values


def _score_of(scores: Scores, metric: str) -> float:
    if metric not in scores:
        raise _not_recorded(metric, list(scores))
    return scores[metric]


def _not_recorded(metric: str, known: Sequence[str]) -> ValueError:
    return ValueError(f'--metric "{metric}" was not recorded; these were: {", ".join(dict.fromkeys(known))}.')


# ---- the picture ----


def draw(panels: Mapping[str, Mapping[str, Sequence[Curve]]]) -> np.ndarray:
    """A picture (H, W, 3) uint8: for each title a panel from 0 to 100, with the mean of each config's runs in a band
    from the lowest to the highest.

    Args:
        panels: title -> name of the config -> the curves of its runs.
    """
    figure = Figure(figsize=(6 * len(panels), 4), dpi=130, layout="constrained")
    names = list(dict.fromkeys(name for configs in panels.values() for name in configs))
    colours = dict(zip(names, cycle(COLOURS)))
    for panel, (title, configs) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        _draw_panel(panel, title, configs, colours)
    return rendered(figure)


def _draw_panel(panel: Axes, title: str, configs: Mapping[str, Sequence[Curve]], colours: Mapping[str, str]) -> None:
    for name, curves in configs.items():
        iterations, values = aligned(curves)
        panel.plot(iterations, values.mean(0), color=colours[name], label=name, **MARKED)
        panel.fill_between(iterations, values.min(0), values.max(0), color=colours[name], alpha=0.2, linewidth=0)
    panel.set_ylim(0, 100)
    finish_panel(panel, title, "points")


def aligned(curves: Sequence[Curve]) -> tuple[list[int], np.ndarray]:
    """The iterations at which all curves have a value, and these values (number of curves, iterations)."""
    points = [dict(zip(*curve)) for curve in curves]
    shared = sorted(set.intersection(*(set(values) for values in points)))
    return shared, np.array([[values[iteration] for iteration in shared] for values in points])


# ---- the table ----


def table(configs: Mapping[str, Compared], metrics: Sequence[str]) -> str:
    """Markdown: for each config its metrics, at the end of training and on further data sets, its size and its time.
    Of a fine-tuning that keeps (DATASETS.KEEP) also its metrics before, of a single run halfway."""
    rows = []
    for name, config in configs.items():
        row = {"": name}
        row |= {title: with_values(values) for title, values in scores(config, metrics).items() if values}
        row |= {title: f"{with_values(values)} %" for title, values in _matching(config).items()}
        row["M parameters"] = f"{config.millions:.2f}"
        minutes = [training_minutes(history) for history in config.histories]
        steps = [max(iterations_done(history), 1) for history in config.histories]
        row["s an iteration"] = mean_and_spread([60 * time / count for time, count in zip(minutes, steps)], 3)
        row["min of training"] = mean_and_spread(minutes, 1)
        rows.append(row)
    return _markdown(rows)


def scores(config: Compared, metrics: Sequence[str]) -> dict[str, list[float]]:
    """Column of the table -> the values of the runs, where they are numbers."""
    return {title: values for metric in metrics for title, values in _scores(config, metric).items()}


def _scores(config: Compared, metric: str) -> dict[str, list[float]]:
    points = [list(zip(*curve_of(history, metric))) for history in config.histories]
    before = [value for curve in points for iteration, value in curve if iteration == 0]
    curves = [values for curve in points if (values := [value for iteration, value in curve if iteration > 0])]
    halfway = {f"{metric}, halfway": [values[(len(values) - 1) // 2] for values in curves]}
    also = {
        f"{metric}, {name}": [value for one in runs if math.isfinite(value := _score_of(one, metric))]
        for name, runs in config.also.items()
    }
    end = {f"{metric}, before": before, f"{metric}, end": [values[-1] for values in curves]}
    return {**(halfway if len(config.histories) == 1 else {}), **end, **also}


def _matching(config: Compared) -> dict[str, list[float]]:
    changes = [values for _, values in config.changes if values]
    if not changes:
        return {}
    means = [float(np.mean(values)) for values in changes]
    return {"matched anew, mean": means, "matched anew, end": [values[-1] for values in changes]}


def mean_and_spread(values: Sequence[float], digits: int) -> str:
    """Mean ± half the range: "64.6 ± 1.2"; a single value alone."""
    mean, half = np.mean(values), (max(values) - min(values)) / 2
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if len(values) > 1 else "")


def with_values(values: Sequence[float]) -> str:
    """The same, with the values: "64.6 ± 1.2 (63.1, 65.2, 65.5)"."""
    each = ", ".join(f"{value:.1f}" for value in values)
    return mean_and_spread(values, 1) + (f" ({each})" if len(values) > 1 else "")


def differences(configs: Mapping[str, Compared], metrics: Sequence[str], baseline: str) -> str:
    """Markdown: for each other config, how much higher the means of its metrics are than the baseline's; see
    `difference`."""
    below = scores(configs[baseline], metrics)
    rows = []
    for name in [name for name in configs if name != baseline]:
        above = scores(configs[name], metrics)
        both = [title for title, values in above.items() if values and below.get(title)]
        rows.append({"": name, **{title: difference(above[title], below[title]) for title in both}})
    return _markdown(rows)


def difference(values: Sequence[float], baseline: Sequence[float]) -> str:
    """Of the means: "+14.0", or "+0.5 (ranges overlap)" where it is not larger than the spread."""
    apart = min(values) > max(baseline) or max(values) < min(baseline)
    return f"{np.mean(values) - np.mean(baseline):+.1f}" + ("" if apart else " (ranges overlap)")


def _markdown(rows: Sequence[Mapping[str, str]]) -> str:
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, stralign="right")
