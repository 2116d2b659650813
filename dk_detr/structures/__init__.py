"""Structures: the nouns that pass between the rooms of the detector, as frozen dataclasses."""

from dk_detr.structures.calibration import Calibration
from dk_detr.structures.features import FeaturePyramid, Memory
from dk_detr.structures.knowledge import Candidates, RegionKnowledge, Regions, TeacherInput
from dk_detr.structures.predictions import Predictions, Trace
from dk_detr.structures.queries import DETECTION, QueryGroup, QuerySet
from dk_detr.structures.targets import Assignment, Targets
from dk_detr.structures.vocabulary import Vocabulary, require_words

__all__ = [
    "DETECTION", "Assignment", "Calibration", "Candidates", "FeaturePyramid", "Memory", "Predictions", "QueryGroup",
    "QuerySet", "RegionKnowledge", "Regions", "Targets", "TeacherInput", "Trace", "Vocabulary", "require_words",
]  # fmt: skip
