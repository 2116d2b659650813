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
    ignored: np.ndarray,
    excused: np.ndarray,
    recall_points: np.ndarray,
    num_categories: int,
) -> np.ndarray:
    """Precision at each recall, at best from there on, averaged over the recall points.

    Args:
        detections: sorted by category, then image; of equal scores the earlier comes first. matches: of them.
        ignored: (G, A) bool: finding it is neither right nor wrong. excused: (N, A) bool: finding nothing is not wrong.

    Returns: (T, K, A) fractions; nan where there is nothing to find.
    """
    num_areas, num_thresholds = matches.object.shape[1:]
    result = np.full((num_thresholds, num_categories, num_areas), np.nan)
    wanted = np.stack([np.bincount(objects.category, ~column, num_categories) for column in ignored.T], axis=1)
    edges = np.arange(num_categories + 1)
    own = np.searchsorted(detections.category, edges)
    matched = np.searchsorted(matches.detection, own)
    for k in np.flatnonzero(wanted.any(axis=1)):
        rows, near = slice(*own[k : k + 2]), slice(*matched[k : k + 2])
        order = np.argsort(-detections.score[rows], kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        place = place[matches.detection[near] - own[k]]  # in the order of scores
        by_score = np.argsort(place)
        found = matches.object[near][by_score]
        for a in np.flatnonzero(wanted[k]):
            counts = ~excused[rows, a][order]
            points = _precision(found[:, a], ignored[:, a], counts, place[by_score], int(wanted[k, a]), recall_points)
            result[:, k, a] = points.mean(axis=0)
    return result


def _precision(
    found: np.ndarray, ignored: np.ndarray, counts: np.ndarray, place: np.ndarray, wanted: int, recalls: np.ndarray
) -> np.ndarray:
    """Precision (R, T) of one category in one area range.

    Only detections near an object can be hits, so precision is looked up at these alone; the others are counted.

    Args:
        found: (M, T) of detections near objects, best first. counts: (N,) bool, of all, best first: false if it finds
            nothing. place: (M,) where the M stand among the N. wanted: number of objects.
    """
    hits = np.cumsum((found >= 0) & ~ignored[found], axis=0)
    excepted = np.cumsum((found >= 0) & counts[place][:, None], axis=0)
    mistakes = np.cumsum(counts)[place][:, None] - excepted
    precision = hits / (hits + mistakes + EPSILON)
    at_best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    at_best = np.concatenate([at_best, np.zeros((1, found.shape[1]))])
    needed = np.searchsorted(np.arange(wanted + 1) / wanted, recalls)  # hits for that recall
    columns = range(found.shape[1])
    return np.stack([at_best[np.searchsorted(hits[:, t], needed), t] for t in columns], axis=1)
