"""Tables for people: the metrics of groups for the log, and one row per category as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import GroundTruth
from dk_detr.evaluation.metrics import Evaluation
from dk_detr.evaluation.protocols import COCO, Groups
from dk_detr.utils import atomic_write

BASE = re.compile(r"-base(?=$|@)")  # a metric of the base categories: "AP-base", "AP-base@300"


def summary(protocol: COCO, ground_truth: GroundTruth, evaluation: Evaluation, groups: Groups, iou_type: str) -> str:
    """Two tables in Markdown: the metrics of the whole, and those of the groups with their counts."""
    metrics = evaluation.metrics
    plain = [name for name in metrics if "-" not in name]
    overall = tabulate([[metrics[name] for name in plain]], plain, "pipe", floatfmt=".2f")
    of_group = {name: name.replace("-base", "-{}") for name in metrics if BASE.search(name)}
    counts = np.bincount(ground_truth.objects.category, minlength=len(ground_truth.names))
    rows = [
        [group, *(metrics[name.format(group)] for name in of_group.values()), len(ids), int(counts[ids].sum())]
        for group, ids in groups.items()
    ]
    columns = [name.replace("-base", "") for name in of_group]
    by_group = tabulate(rows, ["group", *columns, "categories", "objects"], "pipe", floatfmt=".2f")
    what = {"bbox": "boxes", "segm": "masks"}[iou_type]
    return f"{protocol.title}, {what}, in points; AR is class-agnostic recall:\n{overall}\n\n{by_group}"


def category_rows(
    protocol: COCO, ground_truth: GroundTruth, found: Detections, evaluation: Evaluation, novel: set[int]
) -> list[dict[str, Any]]:
    """One row per category: its name, counts of images, objects and detections, and its AP."""
    objects, count = ground_truth.objects, len(ground_truth.names)
    counts = np.bincount(objects.category, minlength=count)
    places = np.unique(ground_truth.group(objects.image, objects.category))
    images = np.bincount(places // max(len(ground_truth.image_ids), 1), minlength=count)
    detections = np.bincount(found.category, minlength=count)
    rows = []
    for k, name in enumerate(ground_truth.names):
        frequency = {"frequency": ground_truth.frequencies[k]} if ground_truth.frequencies[k] else {}
        numbers = {"images": images[k], "ground_truth": counts[k], "detections": detections[k]}
        points = {metric: evaluation.category_ap.points([k], iou) for metric, iou in protocol.group_ious.items()}
        row = {"name": name, **frequency, "novel": int(k in novel), **numbers}
        rows.append(row | {metric: f"{value:.3f}" for metric, value in points.items()})
    return rows


def write_category_tables(rows: list[dict[str, Any]], csv_file: Path) -> None:
    """Write the rows as CSV, and beside it as Markdown."""
    text, columns = io.StringIO(), list(rows[0])
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic_write(csv_file, text.getvalue())
    cells = [[row[column] for column in columns] for row in rows]
    aligned = ["left"] + ["right"] * (len(columns) - 1)
    table = tabulate(cells, columns, "pipe", disable_numparse=True, colalign=aligned)
    atomic_write(csv_file.with_suffix(".md"), f"{table}\n")
