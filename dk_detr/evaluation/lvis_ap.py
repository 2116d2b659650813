"""Average precision by the rules of LVIS: the `lvis` package computes it, this file asks it and reads its arrays.

Axes of `LVISEval.eval["precision"]`: T IoU thresholds (.50:.05:.95), R recall points (101), K categories by ascending
id, A area ranges (the first is "all"). An entry of -1: the category has no ground truth in that area range.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from lvis import LVIS, LVISEval, LVISResults

STANDARD_METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def load_ground_truth(annotation_file: str) -> LVIS:
    """The annotation file as `lvis` reads it, without polygons: boxes are scored, polygons are most of the memory.

    Raises: ValueError if a category has no frequency or an image lacks the lists of the federated protocol.
    """
    with _quiet("lvis"):
        ground_truth = LVIS(annotation_file)
    _require(annotation_file, "category", ground_truth.dataset["categories"], ("name", "frequency"))
    federated = ("neg_category_ids", "not_exhaustive_category_ids")
    _require(annotation_file, "image", ground_truth.dataset["images"], federated)
    for annotation in ground_truth.dataset["annotations"]:
        annotation.pop("segmentation", None)
    return ground_truth


def score(ground_truth: LVIS, results: list[dict[str, Any]], max_detections: int) -> LVISEval:
    """Run LVISEval on boxes; the answer carries `.results` and `.eval["precision"]`.

    Args:
        results: rows in the LVIS result format (image_id, category_id, bbox xywh, score). `lvis` adds keys to them.
        max_detections: kept per image over all categories, the best scores first; 300 in every published number.
    """
    with _quiet("lvis"):
        detections = _Detections(ground_truth, results, max_detections)
        evaluation = LVISEval(ground_truth, detections, "bbox")
        evaluation.params.max_dets = max_detections
        evaluation.run()
    return evaluation


def standard_metrics(evaluation: LVISEval) -> dict[str, float]:
    """The nine published numbers in points (times 100); nan where there is no ground truth (`lvis` says -1)."""
    return {name: _points(evaluation.results[name]) for name in STANDARD_METRICS}


def group_ap(evaluation: LVISEval, category_ids: Iterable[int], iou: float | None = None) -> float:
    """AP of some categories in points, averaged as LVISEval averages its frequency groups; nan without ground truth.

    Args:
        iou: one threshold, such as 0.5 for AP50; None averages over .50:.05:.95.
    """
    precision = evaluation.eval["precision"]
    if iou is not None:
        precision = precision[np.isclose(evaluation.params.iou_thrs, iou)]
    column = {category_id: index for index, category_id in enumerate(evaluation.params.cat_ids)}
    precision = precision[:, :, [column[category_id] for category_id in category_ids], 0]
    known = precision[precision > -1]
    return _points(float(known.mean()) if known.size else -1.0)


class _Detections(LVISResults):
    """LVISResults that may be empty, and that does not deep-copy the ground-truth boxes only to drop them."""

    def __init__(self, ground_truth: LVIS, results: list[dict[str, Any]], max_detections: int) -> None:
        without_annotations = copy.copy(ground_truth)
        without_annotations.dataset = {**ground_truth.dataset, "annotations": []}
        if results:
            super().__init__(without_annotations, results, max_detections)
            return
        self.logger = logging.getLogger(LVISResults.__module__)
        self.dataset = without_annotations.dataset
        self._create_index()


def _points(fraction: float) -> float:
    return float("nan") if fraction < 0 else 100.0 * float(fraction)


def _require(annotation_file: str, kind: str, rows: list[dict[str, Any]], keys: tuple[str, ...]) -> None:
    for row in rows:
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(
                f'{annotation_file}: {kind} {row["id"]} has no "{missing[0]}". LVIS scoring needs it: '
                "use an annotation file in LVIS v1 format."
            )


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep the `lvis` package from announcing every step, and from warning that results come as a list."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
