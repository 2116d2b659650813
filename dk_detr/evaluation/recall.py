"""Class-agnostic recall: is every object found by some box, whatever it was taken for?

It tells a detector that does not see novel objects from one that sees them and has no name for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import Objects
from dk_detr.evaluation.matching import Pairs, match_greedily, pairs_that_overlap

BUDGETS = (100, 300)  # boxes of an image
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def class_agnostic_recall(
    detections: Detections,
    objects: Objects,
    ignored: np.ndarray,
    crowd: np.ndarray,
    groups: Mapping[str, Sequence[int]],
    thresholds: np.ndarray,
) -> dict[str, float]:
    """Recall in points, averaged over IoU thresholds, among the best boxes of each image: "AR@100", "AR@100-base" ….

    Boxes and objects are matched one to one, the best scores first, by COCO's rule (`useCats = 0`). Base and novel
    objects are matched together: a box that matches a base object cannot match a novel one. One thing differs from
    COCO's rule: a box that was detected with several classes is one box, with its best score.

    Args:
        ignored: (G,) bool: not counted. crowd: (G,) bool: may be found any number of times.
        groups: category indices by name. thresholds: (T,).

    Returns: for each of BUDGETS, and for all objects and each group; nan without objects.
    """
    boxes = best_distinct(detections, max(BUDGETS))
    pairs = class_agnostic_pairs(boxes, objects, crowd, thresholds.min())
    finder = finders(boxes, pairs, ignored, crowd, thresholds)
    members = {
        "": ~ignored,
        **{f"-{name}": ~ignored & np.isin(objects.category, ids) for name, ids in groups.items()},
    }
    return {
        f"AR@{budget}{suffix}": 100.0 * float((finder[mask] < budget).mean()) if mask.any() else float("nan")
        for budget in BUDGETS
        for suffix, mask in members.items()
    }


def class_agnostic_pairs(boxes: Detections, objects: Objects, crowd: np.ndarray, least_iou: float) -> Pairs:
    """All pairs of a detection and an object of its image with at least this IoU, whatever their words.

    Args:
        boxes: sorted by image. crowd: (G,) bool.
    """
    order = np.argsort(objects.image, kind="stable")
    things, image = objects.boxes_or_masks[order], objects.image[order]
    pairs = pairs_that_overlap(boxes.boxes_or_masks, boxes.image, things, image, crowd[order], least_iou)
    return pairs._replace(object=order[pairs.object])


def finders(
    boxes: Detections, pairs: Pairs, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """(G, T) the rank, in its image, of the box that matches each object, whatever the words; infinite where none does.

    Args:
        boxes: see `best_distinct`. pairs: see `class_agnostic_pairs`; they may overlap less than the thresholds.
        ignored, crowd, thresholds: see `class_agnostic_recall`.
    """
    matches = match_greedily(pairs, boxes.image, ignored[:, None], crowd, thresholds)
    rank = np.arange(len(boxes)) - np.searchsorted(boxes.image, boxes.image)
    finder = np.full((len(ignored), len(thresholds)), np.inf)
    row, threshold = np.nonzero(matches.object[:, 0] >= 0)
    finder[matches.object[row, 0, threshold], threshold] = rank[matches.detection[row]]
    return finder


def best_distinct(detections: Detections, count: int) -> Detections:
    """The best different boxes, or masks, of each image, at most `count`; by image, the best first."""
    order = np.lexsort((detections.category, -detections.score, detections.image))  # equal scores in COCO's order
    found = detections.take(order)
    found = found.take(np.sort(np.unique(_codes(found), return_index=True)[1]))
    rank = np.arange(len(found)) - np.searchsorted(found.image, found.image)
    return found.take(rank < count)


def _codes(found: Detections) -> np.ndarray:
    """One number for an image and a box or mask: to compare five columns of a million rows would take longer than all
    the rest."""
    code = found.image.astype(np.uint64)
    if found.boxes_or_masks.dtype == object:
        columns = np.array([[hash(mask["counts"])] for mask in found.boxes_or_masks], dtype=np.int64).reshape(-1, 1)
    else:
        columns = found.boxes_or_masks
    for column in np.ascontiguousarray(columns.T).view(np.uint64):
        code = (code ^ column) * MULTIPLIER
        code ^= code >> np.uint64(29)
    return code
