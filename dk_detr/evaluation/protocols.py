"""The rules of the benchmarks: which detections count, what is ignored, which numbers are reported.

`lvis` and `pycocotools` define the first ones; all numbers equal theirs (to rounding) except where they go wrong:

* An annotation with the id 0 can be found. (Both keep the id of what was found, and read 0 as nothing.)
* Annotations that share an id are different objects. (Both look them up by id and take the last for all.)
* The area of a mask is the mask's own, see `regions.areas`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dk_detr.annotations.ov_coco import BASE, NOVEL
from dk_detr.evaluation.average_precision import average_precision
from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import FREQUENCIES, GroundTruth
from dk_detr.evaluation.matching import ALMOST_ONE, Matches, match_greedily, match_largest_overlap, pairs_that_overlap

logger = logging.getLogger(__name__)

Groups = Mapping[str, Sequence[int]]  # name -> category indices
AREAS = {"": (0.0, 1e5**2), "s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}  # pixels


@dataclass(frozen=True)
class Scores:
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


class COCO:
    """COCO's detection metric: 100 detections of an image and a category; what lies in a crowd is forgiven.

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

    def novel(self, ground_truth: GroundTruth) -> list[str]:
        """The names that are novel where nobody says."""
        return []

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        """(G,) bool: objects that need not be found."""
        return ground_truth.objects.crowd

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        """(G,) bool: objects that may be found any number of times."""
        return ground_truth.objects.crowd

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        """The detections that count, and (N,) bool, which of them cost nothing where they find nothing."""
        found = found.best_of(ground_truth.group(found.image, found.category), self.max_of_category)
        return found, np.zeros(len(found), dtype=bool)

    def match(self, ground_truth: GroundTruth, found: Detections, group: np.ndarray, ignored: np.ndarray) -> Matches:
        """Which detection finds which object; see `matching.py`."""
        objects, crowd = ground_truth.objects, self.crowd(ground_truth)
        place = ground_truth.group(objects.image, objects.category)
        least = min(float(self.thresholds.min()), ALMOST_ONE)
        pairs = pairs_that_overlap(found.regions, group, objects.regions, place, crowd, least)
        return match_greedily(pairs, group, ignored, crowd, self.thresholds)

    def beside(self) -> dict[str, COCO]:
        """Other protocols whose metrics are reported beside, by what is added to their names."""
        return {}

    def score(self, ground_truth: GroundTruth, found: Detections) -> Scores:
        """AP of each category."""
        found, pardoned = self.admit(ground_truth, found)
        order = np.lexsort((-found.score, group := ground_truth.group(found.image, found.category)))
        found, group, pardoned = found.take(order), group[order], pardoned[order]
        objects = ground_truth.objects
        ignored = self.ignored(ground_truth)[:, None] | self._outside(objects.area)
        matches = self.match(ground_truth, found, group, ignored)
        excused = pardoned[:, None] | self._outside(found.area)
        ap = average_precision(
            found, matches, objects, ignored, excused, self.recall_points, len(ground_truth.category_ids)
        )
        return Scores(ap, self.thresholds, tuple(self.areas))

    def metrics(self, ground_truth: GroundTruth, scores: Scores) -> dict[str, float]:
        """What the benchmark publishes, in points."""
        by_area = {f"AP{area}": scores.points(area=area) for area in self.areas if area}
        return {**{name: scores.points(iou=iou) for name, iou in self.ious.items()}, **by_area}

    def group_metrics(self, scores: Scores, groups: Groups) -> dict[str, float]:
        """The same of groups of categories: "AP-base", "AP50-novel" …"""
        return {
            f"{metric}-{name}": scores.points(members, iou)
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
    num_categories = 65  # 48 base, 17 novel

    def novel(self, ground_truth: GroundTruth) -> list[str]:
        if not {*BASE, *NOVEL}.intersection(ground_truth.names):
            raise ValueError(
                f"{ground_truth.file} has none of the {self.num_categories} categories of OV-COCO; is it a file of "
                'tools/prepare_dataset.py ov-coco? For other names choose the protocol "coco", or say which are novel.'
            )
        return [name for name in ground_truth.names if name in NOVEL]

    def accept(self, ground_truth: GroundTruth) -> GroundTruth:
        """See `COCO`: objects of COCO's other 15 categories would count as base."""
        present = len(np.unique(ground_truth.objects.category))
        if present > self.num_categories:
            raise ValueError(
                f"{ground_truth.file} has objects of {present} categories; OV-COCO scores {self.num_categories} of "
                "COCO's. Make its file with tools/prepare_dataset.py ov-coco."
            )
        return ground_truth


class Objects365(COCO):
    """COCO's metric on Objects365."""

    title = "Objects365"
    areas: Mapping[str, tuple[float, float]] = {"": AREAS[""]}


class LVIS(COCO):
    """LVIS v1, federated: 300 detections of an image over all categories; of a category that an image was not searched
    for nothing counts; a mistake in one that was not annotated exhaustively costs nothing.

    Crowds are unknown to it; annotations with "ignore" need not be found. What has no area, such as an empty mask,
    takes one of the 300 places and counts for nothing.

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
                f"{ground_truth.file}: {ground_truth.lacking}. LVIS scoring needs it: use an annotation file in LVIS "
                'v1 format, or the protocol "coco".'
            )
        solid = ground_truth.objects.area > 0
        if not solid.all():
            logger.warning(
                "%s: %d of %d objects have an area of 0 and are not scored, as in LVIS.",
                ground_truth.file, (~solid).sum(), len(solid),
            )  # fmt: skip
        return replace(ground_truth, objects=ground_truth.objects.take(solid))

    def novel(self, ground_truth: GroundTruth) -> list[str]:
        return [name for name, f in zip(ground_truth.names, ground_truth.frequencies) if f == "r"]

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        return ground_truth.objects.marked

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        return np.zeros(len(ground_truth.objects), dtype=bool)

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return self._searched_for(ground_truth, found.best_of(found.image, self.max_detections))

    def _searched_for(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        objects = ground_truth.objects
        present = ground_truth.group(objects.image, objects.category)
        group = ground_truth.group(found.image, found.category)
        known = np.isin(group, np.union1d(present, ground_truth.negative)) & (found.area > 0)
        return found.take(known), np.isin(group[known], ground_truth.not_exhaustive)

    def metrics(self, ground_truth: GroundTruth, scores: Scores) -> dict[str, float]:
        frequencies = np.array(ground_truth.frequencies)
        groups = {f"AP{f}": scores.points(np.flatnonzero(frequencies == f).tolist()) for f in FREQUENCIES}
        return {**super().metrics(ground_truth, scores), **groups}


class FixedLVIS(LVIS):
    """Fixed AP (Dave et al. 2021): of each category the 10 000 best detections of the whole data set, without a limit
    for an image, so that categories do not compete for places. Reported beside the usual one, never to be mixed up.
    """

    title = "LVIS, fixed"
    best_of_category = 10_000

    def beside(self) -> dict[str, COCO]:
        return {f"@{self.max_detections}": LVIS(self.max_detections)}

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return self._searched_for(ground_truth, found.best_of(found.category, self.best_of_category))


class VOC(COCO):
    """VOC 2007: AP over 11 recalls at IoU .5 and .75; difficult objects are neither demanded nor counted as mistakes.

    Boxes are in continuous coordinates, [xmin - 1, ymin - 1, xmax, ymax] of VOC's pixels counted from 1, which gives
    the overlaps of the development kit. Its rules are kept where others differ: an IoU of exactly .5 finds (as in
    mmdetection; Detectron2 wants more), and recall 3/10 reaches .3 (not in Detectron2 and mmdetection, by rounding).
    """

    title = "VOC 2007"
    thresholds = np.array([0.5, 0.75])
    recall_points = np.arange(11) / 10
    areas: Mapping[str, tuple[float, float]] = {"": (0.0, np.inf)}
    ious: Mapping[str, float | None] = {"AP50": 0.5, "AP75": 0.75}
    group_ious = ious

    def ignored(self, ground_truth: GroundTruth) -> np.ndarray:
        return ground_truth.objects.difficult | ground_truth.objects.marked

    def crowd(self, ground_truth: GroundTruth) -> np.ndarray:
        return np.zeros(len(ground_truth.objects), dtype=bool)

    def admit(self, ground_truth: GroundTruth, found: Detections) -> tuple[Detections, np.ndarray]:
        return found, np.zeros(len(found), dtype=bool)

    def match(self, ground_truth: GroundTruth, found: Detections, group: np.ndarray, ignored: np.ndarray) -> Matches:
        objects = ground_truth.objects
        place = ground_truth.group(objects.image, objects.category)
        least = float(self.thresholds.min())
        pairs = pairs_that_overlap(found.regions, group, objects.regions, place, self.crowd(ground_truth), least)
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
