"""The rules of the benchmarks: which detections count, what is ignored, which numbers are reported.

`lvis` and `pycocotools` define the first ones; all numbers equal theirs (to rounding) except where they go wrong:

* An annotation with the id 0 can be found. (Both keep the id of what was found, and read 0 as nothing.)
* Annotations that share an id are different objects. (Both look them up by id and take the last for all.)
* The area of a mask is the mask's own, see `geometry.areas`.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dk_detr.annotations import SPLITS
from dk_detr.evaluation.average_precision import average_precision
from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import FREQUENCIES, GroundTruth
from dk_detr.evaluation.matching import ALMOST_ONE, Matches, match_greedily, match_largest_overlap, pairs_that_overlap

logger = logging.getLogger(__name__)

Groups = Mapping[str, Sequence[int]]  # name -> category indices
AREAS = {"": (0.0, 1e5**2), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}  # pixels


@dataclass(frozen=True)
class CategoryAP:
    """AP of each category.

    Attributes:
        ap: (T, K, A) fractions, nan without objects. thresholds: (T,) IoU. areas: A names.
    """

    ap: np.ndarray
    thresholds: np.ndarray
    areas: tuple[str, ...]

    def points(self, categories: Sequence[int] | None = None, iou: float | None = None, area: str = "") -> float:
        """Mean over categories with objects, times 100; nan without any.

        Args:
            categories: indices; None for all. iou: one threshold; None averages over all.
        """
        ap = self.ap[:, :, self.areas.index(area)]
        if iou is not None:
            ap = ap[np.isclose(self.thresholds, iou)]
        known = ap if categories is None else ap[:, list(categories)]
        known = known[~np.isnan(known)]
        return 100.0 * float(known.mean()) if known.size else float("nan")


class Evaluated(NamedTuple):
    """The N detections that a protocol evaluates, and what each of them finds, of G objects, in A area ranges.

    Attributes:
        detections: sorted by category, then image, then score; the best first. matches: of them.
        ignored_objects: (G, A) bool: whoever matches one is neither a true nor a false positive.
        ignored_detections: (N, A) bool: no false positive where it matches no object.
    """

    detections: Detections
    matches: Matches
    ignored_objects: np.ndarray
    ignored_detections: np.ndarray


class COCO:
    """COCO's detection metric: 100 detections of an image and a category; unmatched detections in a crowd are ignored.

    That the 100 are of a category, not of the image, is what `pycocotools` does; a detector that gives 100 in all
    (TEST.DETECTIONS_PER_IMAGE) is measured as the literature of COCO does.
    """

    title = "COCO"
    thresholds = np.linspace(0.5, 0.95, 10)
    recall_points = np.linspace(0.0, 1.0, 101)
    areas: Mapping[str, tuple[float, float]] = AREAS
    ious: Mapping[str, float | None] = {"AP": None, "AP50": 0.5, "AP75": 0.75}
    group_ious: Mapping[str, float | None] = {"AP": None, "AP50": 0.5}
    max_of_category = 100

    def accept(self, ground_truth: GroundTruth) -> GroundTruth:
        """The annotation file as it counts. Raises ValueError if it is not one for this protocol."""
        return ground_truth

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        """(G,) bool: objects that need not be found. Who matches one is neither a true nor a false positive."""
        return ground_truth.objects.crowd

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        """(G,) bool: objects that may be found any number of times."""
        return ground_truth.objects.crowd

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        """The detections that are evaluated, and (N,) bool, which of them are ignored where they match no object."""
        found = found.best_of(ground_truth.group(found.image, found.category), self.max_of_category)
        return found, np.zeros(len(found), dtype=bool)

    def match(self, ground_truth: GroundTruth, found: Detections, group: np.ndarray, ignored: np.ndarray) -> Matches:
        """Which detection finds which object; see `matching.py`."""
        objects, crowd = ground_truth.objects, self.crowd(ground_truth)
        place = ground_truth.group(objects.image, objects.category)
        least = min(float(self.thresholds.min()), ALMOST_ONE)
        pairs = pairs_that_overlap(found.boxes_or_masks, group, objects.boxes_or_masks, place, crowd, least)
        return match_greedily(pairs, group, ignored, crowd, self.thresholds)

    def also_reported(self) -> dict[str, COCO]:
        """Other protocols whose metrics are reported, too, by the suffix of their names."""
        return {}

    def evaluated(self, ground_truth: GroundTruth, found: Detections) -> Evaluated:
        """Which detections count, and what they find."""
        found, ignored_if_unmatched = self.admit(ground_truth, found)
        order = np.lexsort((-found.score, group := ground_truth.group(found.image, found.category)))
        found, group, ignored_if_unmatched = found.take(order), group[order], ignored_if_unmatched[order]
        ignored = self.ignored(ground_truth)[:, None] | self._outside(ground_truth.objects.area)
        matches = self.match(ground_truth, found, group, ignored)
        return Evaluated(found, matches, ignored, ignored_if_unmatched[:, None] | self._outside(found.area))

    def accumulate(self, ground_truth: GroundTruth, found: Detections) -> CategoryAP:
        """AP of each category: matching, then precision over recall."""
        detections, matches, ignored_objects, ignored_detections = self.evaluated(ground_truth, found)
        ap = average_precision(
            detections, matches, ground_truth.objects, ignored_objects, ignored_detections, self.recall_points,
            len(ground_truth.category_ids),
        )  # fmt: skip
        return CategoryAP(ap, self.thresholds, tuple(self.areas))

    def at(self, iou: float) -> COCO:
        """The same rules at one IoU threshold, for objects of any area."""
        rules = copy.copy(self)
        rules.thresholds, rules.areas = np.array([iou]), {"": self.areas[""]}
        return rules

    def metrics(self, ground_truth: GroundTruth, category_ap: CategoryAP) -> dict[str, float]:
        """What the benchmark publishes, in points."""
        by_area = {f"AP{area}": category_ap.points(area=area) for area in self.areas if area}
        return {**{name: category_ap.points(iou=iou) for name, iou in self.ious.items()}, **by_area}

    def group_metrics(self, category_ap: CategoryAP, groups: Groups) -> dict[str, float]:
        """The same of groups of categories: "AP-base", "AP50-novel" …"""
        return {
            f"{metric}-{name}": category_ap.points(members, iou)
            for metric, iou in self.group_ious.items()
            for name, members in groups.items()
        }

    def _outside(self, area: np.ndarray) -> np.ndarray:
        """(…, A) bool: outside of each range of areas."""
        low, high = np.array(list(self.areas.values())).T
        return (area[:, None] < low) | (area[:, None] > high)


class OpenVocabularyCOCO(COCO):
    """OV-COCO, generalized: COCO's metric, of which AP50 over base, novel and all categories is reported."""

    title = "OV-COCO"
    num_categories = sum(map(len, SPLITS["ov-coco"]))

    def accept(self, ground_truth: GroundTruth) -> GroundTruth:
        """See `COCO`: objects of COCO's other 15 categories would count as base."""
        present = len(np.unique(ground_truth.objects.category))
        if present > self.num_categories:
            raise ValueError(
                f"{ground_truth.file} has objects of {present} categories; OV-COCO evaluates {self.num_categories} of "
                "COCO's. Make its file with tools/prepare_dataset.py ov-coco."
            )
        return ground_truth


class Objects365(COCO):
    """COCO's metric on Objects365."""

    title = "Objects365"
    areas: Mapping[str, tuple[float, float]] = {"": AREAS[""]}


class LVIS(COCO):
    """LVIS v1, federated: at most 300 detections of an image over all categories.

    Detections of a category count only in images where the category was looked for: there is an object of it, or the
    image lists it as negative. Where the image lists it as not exhaustively annotated, detections that match no object
    are ignored. Annotations with "ignore" are ignored; "iscrowd" has no meaning. A detection without area, such as an
    empty mask, takes one of the 300 places and is dropped.

    Args:
        max_detections: of an image; 300 in every published number.
    """

    title = "LVIS"

    def __init__(self, max_detections: int = 300) -> None:
        self.max_detections = max_detections

    def accept(self, ground_truth: GroundTruth) -> GroundTruth:
        """See `COCO`: frequencies and lists of categories must be there; objects without area are not."""
        if ground_truth.lacking:
            raise ValueError(
                f"{ground_truth.file}: {ground_truth.lacking}. LVIS needs it: use an annotation file in LVIS "
                'v1 format, or the protocol "coco".'
            )
        solid = ground_truth.objects.area > 0
        if not solid.all():
            logger.warning(
                "%s: %d of %d objects have an area of 0 and are not evaluated, as in LVIS.",
                ground_truth.file, (~solid).sum(), len(solid),
            )  # fmt: skip
        return replace(ground_truth, objects=ground_truth.objects.take(solid))

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        return ground_truth.objects.ignore

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        return np.zeros(len(ground_truth.objects), dtype=bool)

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return self._of_annotated_categories(ground_truth, found.best_of(found.image, self.max_detections))

    def _of_annotated_categories(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        objects = ground_truth.objects
        present = ground_truth.group(objects.image, objects.category)
        group = ground_truth.group(found.image, found.category)
        known = np.isin(group, np.union1d(present, ground_truth.negative)) & (found.area > 0)
        return found.take(known), np.isin(group[known], ground_truth.not_exhaustive)

    def metrics(self, ground_truth: GroundTruth, category_ap: CategoryAP) -> dict[str, float]:
        frequencies = np.array(ground_truth.frequencies)
        groups = {f"AP{f}": category_ap.points(np.flatnonzero(frequencies == f).tolist()) for f in FREQUENCIES}
        return {**super().metrics(ground_truth, category_ap), **groups}


class FixedLVIS(LVIS):
    """Fixed AP (Dave et al. 2021): the 10 000 best detections of each category in the whole data set, without a limit
    of an image, so that categories do not compete for places. The usual AP is reported, too, with the suffix "@300":
    the two cannot be compared.
    """

    title = "LVIS, fixed"
    best_of_category = 10_000

    def also_reported(self) -> dict[str, COCO]:
        return {f"@{self.max_detections}": LVIS(self.max_detections)}

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return self._of_annotated_categories(ground_truth, found.best_of(found.category, self.best_of_category))


class VOC(COCO):
    """VOC 2007: AP over 11 recall points at IoU .5 and .75. Difficult objects are ignored.

    Boxes are in continuous coordinates: [xmin - 1, ymin - 1, xmax, ymax] of VOC's pixels, which count from 1. Their
    overlaps are those of VOC's development kit. In two rules others differ from the kit, and we do not: an IoU of
    exactly .5 matches (Detectron2 wants more), and a recall of 3/10 reaches the point .3 (by rounding it does not in
    Detectron2 and mmdetection).
    """

    title = "VOC 2007"
    thresholds = np.array([0.5, 0.75])
    recall_points = np.arange(11) / 10
    areas: Mapping[str, tuple[float, float]] = {"": (0.0, np.inf)}
    ious: Mapping[str, float | None] = {"AP50": 0.5, "AP75": 0.75}
    group_ious = ious

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        return ground_truth.objects.difficult | ground_truth.objects.ignore

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        return np.zeros(len(ground_truth.objects), dtype=bool)

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return found, np.zeros(len(found), dtype=bool)

    def match(self, ground_truth: GroundTruth, found: Detections, group: np.ndarray, ignored: np.ndarray) -> Matches:
        objects = ground_truth.objects
        place = ground_truth.group(objects.image, objects.category)
        least = float(self.thresholds.min())
        crowd = self.crowd(ground_truth)
        pairs = pairs_that_overlap(found.boxes_or_masks, group, objects.boxes_or_masks, place, crowd, least)
        return match_largest_overlap(pairs, ignored[:, 0], self.thresholds)


PROTOCOLS: dict[str, type[COCO]] = {
    "lvis": LVIS, "lvis-fixed": FixedLVIS, "coco": COCO, "ov-coco": OpenVocabularyCOCO, "voc": VOC,
    "objects365": Objects365,
}  # fmt: skip
"""By the name that data sets (`evaluator_type`) and tools/score.py call them."""


def choose_protocol(name: str, max_detections: int = 300) -> COCO:
    """Raises ValueError for a name that is not in PROTOCOLS."""
    if name not in PROTOCOLS:
        raise ValueError(f'There is no protocol "{name}"; choose one of {", ".join(PROTOCOLS)}.')
    kind = PROTOCOLS[name]
    return kind(max_detections) if issubclass(kind, LVIS) else kind()
