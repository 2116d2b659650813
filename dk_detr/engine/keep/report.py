"""What a detector reaches before a fine-tuning and now, side by side."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from dk_detr.utils import as_json, atomic_write, read_json, with_nan

BEFORE = "before.json"  # in the folder of a run
SHOWN = ("AP50", "AP50-base", "AP50-novel", "AP50-base-kept", "AP50-novel-kept")
ITERATION = -1  # of metrics.json, which counts from 0 and names what was evaluated after an iteration by it

Results = Mapping[str, Any]  # data set -> "bbox" -> metric -> points


def keep_evaluation_before(folder: str, results: Results) -> None:
    """Write what was reached before the first iteration: to before.json, and as the first line of metrics.json."""
    atomic_write(os.path.join(folder, BEFORE), as_json({"iteration": 0, "results": results}, indent=2))
    flat = {
        f"{f'{name}/' if len(results) > 1 else ''}{kind}/{metric}": points
        for name, kinds in results.items()
        for kind, metrics in kinds.items()
        for metric, points in metrics.items()
    }
    with open(os.path.join(folder, "metrics.json"), "a", encoding="utf-8") as file:
        file.write(json.dumps({**flat, "iteration": ITERATION}) + "\n")  # with NaN, as Detectron2 writes it


def evaluated_before(folder: str) -> Results | None:
    """What `keep_evaluation_before` wrote; None where it did not."""
    path = os.path.join(folder, BEFORE)
    return with_nan(read_json(path, "file of results")["results"]) if os.path.isfile(path) else None


def changes_of(before: Results, now: Results) -> Iterator[str]:
    """A line for each data set: "mini_lvis_test: AP50-base 93.9 -> 90.2, AP50-novel 63.4 -> 40.0"."""
    for name, kinds in now.items():
        first, last = before.get(name, {}).get("bbox", {}), kinds.get("bbox", {})
        shown = [metric for metric in SHOWN if math.isfinite(first.get(metric, math.nan)) and metric in last]
        if shown:
            yield f"{name}: " + ", ".join(f"{metric} {first[metric]:.1f} -> {last[metric]:.1f}" for metric in shown)
