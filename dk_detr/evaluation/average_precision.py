"""From matches to average precision. N detections, G objects, K categories, A area ranges, T IoU thresholds."""

from __future__ import annotations

import numpy as np

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import Objects
from dk_detr.evaluation.matching import Matches

EPSILON = np.spacing(1)  # as COCO and LVIS add to denominators


def average_precision(
    detections: Detections,
    matches: Matches,
    objects: Objects,
    ignored_objects: np.ndarray,
    ignored_detections: np.ndarray,
    recall_points: np.ndarray,
    num_categories: int,
) -> np.ndarray:
    """Average precision of every category: the mean of the interpolated precision over the recall points.

    The interpolated precision at a recall is the highest precision at that recall or a higher one.

    Args:
        detections: sorted by category, then image; of equal scores the earlier comes first. matches: of them.
        ignored_objects: (G, A) bool: whoever matches one is neither a true nor a false positive.
        ignored_detections: (N, A) bool: no false positive where it matches no object.

    Returns: (T, K, A) fractions; nan where a category has no object that counts.
    """
    num_areas, num_thresholds = matches.object.shape[1:]
    result = np.full((num_thresholds, num_categories, num_areas), np.nan)
    num_objects = np.stack([np.bincount(objects.category, ~c, num_categories) for c in ignored_objects.T], axis=1)
    edges = np.arange(num_categories + 1)
    of_category = np.searchsorted(detections.category, edges)
    near_of_category = np.searchsorted(matches.detection, of_category)
    for k in np.flatnonzero(num_objects.any(axis=1)):
        rows, near = slice(*of_category[k : k + 2]), slice(*near_of_category[k : k + 2])
        order = np.argsort(-detections.score[rows], kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        rank = rank[matches.detection[near] - of_category[k]]
        by_score = np.argsort(rank)
        matched = matches.object[near][by_score]
        for a in np.flatnonzero(num_objects[k]):
            counts = ~ignored_detections[rows, a][order]
            precision = _interpolated_precision(
                matched[:, a], ignored_objects[:, a], counts, rank[by_score], int(num_objects[k, a]), recall_points
            )
            result[:, k, a] = precision.mean(axis=0)
    return result


def _interpolated_precision(
    matched: np.ndarray, ignored_objects: np.ndarray, counts: np.ndarray, rank: np.ndarray, num_objects: int,
    recall_points: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Interpolated precision (R, T) at R recall points, of one category in one area range.

    Precision is only computed at the M detections that overlap an object. No other can be a true positive, so that
    precision does not rise at the others, and the interpolated precision does not need them.

    Args:
        matched: (M, T) the object that each of the M matches, -1 for none; the best score first. counts: (N,) bool, of
            all N detections of the category, the best score first: False for those that are ignored where they match
            nothing. rank: (M,) the places of the M among the N. num_objects: that are not ignored.
    """
    true_positives = np.cumsum((matched >= 0) & ~ignored_objects[matched], axis=0)
    # False positives: of the detections that count, up to this rank, all but those that match an object.
    matched_and_count = np.cumsum((matched >= 0) & counts[rank][:, None], axis=0)
    false_positives = np.cumsum(counts)[rank][:, None] - matched_and_count
    precision = true_positives / (true_positives + false_positives + EPSILON)
    interpolated = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    interpolated = np.concatenate([interpolated, np.zeros((1, matched.shape[1]))])  # 0 at a recall that is not reached
    needed = np.searchsorted(np.arange(num_objects + 1) / num_objects, recall_points)  # true positives for each recall
    first = [np.searchsorted(column, needed) for column in true_positives.T]
    return np.stack([interpolated[rows, t] for t, rows in enumerate(first)], axis=1)
