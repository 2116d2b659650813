"""Which detection finds which object. N detections, G objects, P pairs, A area ranges, T IoU thresholds.

A group is an image and a category, or, for class-agnostic recall, an image. Detections are matched within their group
only, so all groups are matched at once, in rounds: in the first the best detection of every group takes its object, in
the second the second best, and so on. There are as many rounds as the largest group has detections that overlap an
object.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dk_detr.evaluation import geometry

PAIRS_AT_ONCE = 1 << 18  # bounds the memory of what is computed in between
ALMOST_ONE = 1 - 1e-10  # the highest threshold: COCO lets rounding errors of IoU 1 pass


class Pairs(NamedTuple):
    """Detections with objects of their group that they overlap enough; by detection, then overlap, then object."""

    detection: np.ndarray  # (P,) rows of the detections
    object: np.ndarray  # (P,) rows of the objects
    iou: np.ndarray  # (P,)


class Matches(NamedTuple):
    """What was matched. Only the M detections that overlap an object are listed: no other can match."""

    detection: np.ndarray  # (M,) rows, ascending
    object: np.ndarray  # (M, A, T) row of the object that it matches; -1 for none


def pairs_that_overlap(
    found: np.ndarray, found_group: np.ndarray, objects: np.ndarray, object_group: np.ndarray, crowd: np.ndarray,
    least_iou: float,
) -> Pairs:  # fmt: skip
    """All pairs of the same group with at least this IoU.

    Args:
        found, objects: boxes or masks. found_group, object_group: (N,) and (G,), ascending. crowd: (G,) bool.
    """
    first = np.searchsorted(object_group, found_group, "left")
    count = np.searchsorted(object_group, found_group, "right") - first
    parts = [Pairs(*(np.empty(0, dtype=kind) for kind in (np.int64, np.int64, np.float64)))]
    for rows in _portions(np.flatnonzero(count), count):
        detection, thing = np.repeat(rows, count[rows]), _ranges(first[rows], count[rows])
        iou = geometry.overlaps(found, objects, crowd, detection, thing)
        enough = iou >= least_iou
        parts.append(Pairs(detection[enough], thing[enough], iou[enough]))
    pairs = Pairs(*(np.concatenate(column) for column in zip(*parts)))
    order = np.lexsort((pairs.object, pairs.iou, pairs.detection))
    return Pairs(*(column[order] for column in pairs))


def match_greedily(
    pairs: Pairs, group: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray
) -> Matches:
    """COCO's and LVIS's rule: in the order of scores each detection takes, of the objects that are left and that it
    overlaps enough, the one that it overlaps most (of equals the last); an ignored one only where there is no other.

    Args:
        group: (N,) of the detections, which are sorted by it and then by score. ignored: (G, A) bool. crowd: (G,) bool,
            may be found any number of times. thresholds: (T,).
    """
    rows, first, count = np.unique(pairs.detection, return_index=True, return_counts=True)
    shape = (ignored.shape[1], len(thresholds))
    answer = np.full((len(rows), *shape), -1, dtype=np.int32)
    taken = np.zeros((len(ignored), *shape), dtype=bool)
    lowest = np.minimum(thresholds, ALMOST_ONE)
    for turn in _rounds(group[rows], count):
        chosen = _ranges(first[turn], count[turn])
        things = pairs.object[chosen]
        free = (pairs.iou[chosen][:, None, None] >= lowest) & ~taken[things]
        # Pairs come by ascending overlap, so a later one is worth more. An object that is not ignored is worth more
        # than any that is.
        worth = np.arange(len(things), dtype=np.int32)[:, None] + np.int32(len(things)) * ~ignored[things]
        starts = np.cumsum(count[turn]) - count[turn]
        best = np.maximum.reduceat(np.where(free, worth[:, :, None], -1), starts, axis=0)
        which, area, threshold = np.nonzero(best >= 0)
        thing = things[best[which, area, threshold] % len(things)]
        answer[turn[which], area, threshold] = thing
        taken[thing, area, threshold] = ~crowd[thing]
    return Matches(rows, answer)


def match_largest_overlap(pairs: Pairs, difficult: np.ndarray, thresholds: np.ndarray) -> Matches:
    """VOC's rule: a detection can only match the object that it overlaps most, of equal overlaps the first. Of several
    detections for one object the best score matches it. The others are false positives, even if they overlap another
    object that nobody has matched.

    Args:
        pairs: the detections' rows in the order of scores, within a group. difficult: (G,) bool, may be found any
            number of times.
    """
    backwards = np.lexsort((-pairs.object, pairs.iou, pairs.detection))  # of equal overlaps the first object comes last
    last = np.append(np.flatnonzero(np.diff(pairs.detection)), len(pairs.detection) - 1)[: len(pairs.detection)]
    rows, thing, iou = (column[backwards][last] for column in pairs)
    answer = np.full((len(rows), 1, len(thresholds)), -1, dtype=np.int32)
    for t, threshold in enumerate(thresholds):
        enough = np.flatnonzero(iou >= threshold)
        first = np.zeros(len(enough), dtype=bool)
        first[np.unique(thing[enough], return_index=True)[1]] = True
        finds = enough[first | difficult[thing[enough]]]
        answer[finds, 0, t] = thing[finds]
    return Matches(rows, answer)


def _rounds(group: np.ndarray, count: np.ndarray) -> Iterator[np.ndarray]:
    """Indices of the first detection of each group, of the second … ; large rounds in portions."""
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    order = np.argsort(rank, kind="stable")
    for turn in np.split(order, np.flatnonzero(np.diff(rank[order])) + 1):
        yield from _portions(turn, count)


def _portions(rows: np.ndarray, count: np.ndarray) -> Iterator[np.ndarray]:
    """Cut rows where their pairs, `count[row]` each, would become too many at once."""
    if len(rows):
        portion = np.cumsum(count[rows]) // PAIRS_AT_ONCE
        yield from np.split(rows, np.flatnonzero(np.diff(portion)) + 1)


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0], first[0] + 1, … (count[0] numbers), first[1], …"""
    offset = np.cumsum(count) - count
    return np.arange(count.sum()) + np.repeat(first - offset, count)
