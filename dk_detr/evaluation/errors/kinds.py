"""What each detection is: a hit, or an error of some kind. N detections, G objects, K categories, I images."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import GroundTruth, Objects
from dk_detr.evaluation.protocols import COCO
from dk_detr.evaluation.recall import class_agnostic_pairs

ON_OBJECT, NEAR_OBJECT = 0.5, 0.1  # least IoU of a box that is on an object, and of one that is near; as in TIDE
PAIRS_OF_IMAGES = 1 << 22  # of boxes with objects, looked at together: bounds the memory


class Kind(IntEnum):
    """A hit, the kinds of error, and what is neither."""

    HIT = 0
    CONFUSED_WITH_BASE = 1  # on an object of another word, which is base
    CONFUSED_WITH_NOVEL = 2
    DUPLICATE = 3  # on an object of its word that a better detection has found
    LOOSE = 4  # near an object of its word
    PART = 5  # near an object of another word
    BACKGROUND = 6  # near nothing
    IGNORED = 7  # neither a true nor a false positive


CONFUSED = (Kind.CONFUSED_WITH_BASE, Kind.CONFUSED_WITH_NOVEL)


@dataclass(frozen=True)
class Findings:
    """The detections that a protocol evaluates, and what each is.

    Attributes:
        detections: sorted by category, then image, then score; the best first.
        kind: (N,) of `Kind`. match: (N,) row of the object that each finds; -1 for none.
        unjudged: (N,) bool: no false positive where it finds no object.
        target: (N,) row of the object that it finds, or would find without its error; -1 where there is none.
        objects: G. ignored: (G,) bool: objects that need not be found.
        best: (G,) row of the best-scoring detection on each object, whatever its word; -1 where there is none.
    """

    detections: Detections
    kind: np.ndarray
    match: np.ndarray
    unjudged: np.ndarray
    target: np.ndarray
    objects: Objects
    ignored: np.ndarray
    best: np.ndarray


@dataclass(frozen=True)
class _Nearest:
    """Of each detection the object that it overlaps most, among those of its word and among all others.

    Attributes:
        own, other: (N,) rows of objects; -1 where none is near. own_iou, other_iou: (N,), 0 where none is near.
        best: see `Findings`.
    """

    own: np.ndarray
    own_iou: np.ndarray
    other: np.ndarray
    other_iou: np.ndarray
    best: np.ndarray


def classify(protocol: COCO, ground_truth: GroundTruth, found: Detections, novel: Collection[int]) -> Findings:
    """Say of each detection what it is, at IoU 0.5.

    The kinds are those of TIDE (Bolya et al., ECCV 2020), with confusions parted by the word of the object. Where
    several fit, TIDE's code takes the first of its list, so that a box on a wrong object is loose if it is near a right
    one. Here a box on an object comes before one near an object, and of two objects counts that which it overlaps more.
    Objects that need not be found (crowds, ignored ones) explain no error.

    Args:
        novel: category indices.
    """
    detections, matches, ignored_objects, ignored_detections = protocol.at(ON_OBJECT).evaluated(ground_truth, found)
    objects, ignored, unjudged = ground_truth.objects, ignored_objects[:, 0], ignored_detections[:, 0]
    match = np.full(len(detections), -1, dtype=np.int64)
    match[matches.detection] = matches.object[:, 0, 0]
    near = _nearest(detections, objects, ignored, match, unjudged)
    of_novel = np.isin(objects.category, list(novel))
    kind = _kinds(near, np.append(of_novel, False)[near.other])
    kind[match >= 0] = Kind.HIT
    kind[np.where(match >= 0, np.append(ignored, False)[match], unjudged)] = Kind.IGNORED
    target = np.where(np.isin(kind, CONFUSED), near.other, np.where(kind == Kind.LOOSE, near.own, -1))
    target = np.where(kind == Kind.HIT, match, np.where(kind == Kind.DUPLICATE, near.own, target))
    return Findings(detections, kind, match, unjudged, target, objects, ignored, near.best)


def _kinds(near: _Nearest, other_is_novel: np.ndarray) -> np.ndarray:
    """(N,) what each would be if it found no object; a later rule goes before an earlier one."""
    kind = np.full(len(near.own), int(Kind.BACKGROUND), dtype=np.int8)
    kind[near.other_iou >= NEAR_OBJECT] = Kind.PART
    kind[near.own_iou >= NEAR_OBJECT] = Kind.LOOSE
    on_other = near.other_iou >= ON_OBJECT
    kind[on_other & ~other_is_novel] = Kind.CONFUSED_WITH_BASE
    kind[on_other & other_is_novel] = Kind.CONFUSED_WITH_NOVEL
    kind[(near.own_iou >= ON_OBJECT) & (near.own_iou >= near.other_iou)] = Kind.DUPLICATE
    return kind


def _nearest(
    found: Detections, objects: Objects, ignored: np.ndarray, match: np.ndarray, unjudged: np.ndarray
) -> _Nearest:
    """See `_Nearest`. Only a detection that is judged and finds nothing else can take an object for another word: who
    finds the horse is not wrong about its rider."""
    own, other = (np.full(len(found), -1, dtype=np.int64) for _ in range(2))
    own_iou, other_iou = np.zeros(len(found)), np.zeros(len(found))
    best = np.full(len(objects), -1, dtype=np.int64)
    may_confuse = (match < 0) & ~unjudged
    for rows, things in images_at_a_time(found, objects):
        things = things[~ignored[things]]
        none = np.zeros(len(things), dtype=bool)
        pairs = class_agnostic_pairs(found.take(rows), objects.take(things), none, NEAR_OBJECT)
        detection, thing, iou = rows[pairs.detection], things[pairs.object], pairs.iou
        same = found.category[detection] == objects.category[thing]
        for chosen, row_of, iou_of in ((same, own, own_iou), (~same, other, other_iou)):
            # Pairs come by ascending overlap, and of repeated indices the last value stays.
            row_of[detection[chosen]], iou_of[detection[chosen]] = thing[chosen], iou[chosen]
        on = np.flatnonzero((iou >= ON_OBJECT) & (same | may_confuse[detection]))
        on = on[np.lexsort((iou[on], found.score[detection[on]]))]
        best[thing[on]] = detection[on]
    return _Nearest(own, own_iou, other, other_iou, best)


def images_at_a_time(found: Detections, objects: Objects) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of the detections and of the objects of some images, by image; so that what is computed from their pairs
    fits into memory."""
    rows, things = (np.argsort(column, kind="stable") for column in (found.image, objects.image))
    image, image_of_thing = found.image[rows], objects.image[things]
    num_images = max((int(column[-1]) + 1 for column in (image, image_of_thing) if len(column)), default=0)
    edges = np.arange(num_images + 1)
    ours, theirs = np.searchsorted(image, edges), np.searchsorted(image_of_thing, edges)
    portion = np.cumsum(np.diff(ours) * np.diff(theirs)) // PAIRS_OF_IMAGES
    cuts = [0, *(np.flatnonzero(np.diff(portion)) + 1).tolist(), num_images]
    for first, end in pairwise(cuts):
        yield rows[ours[first] : ours[end]], things[theirs[first] : theirs[end]]
