"""Structures: the nouns that pass between the rooms of the detector. Frozen dataclasses, no behaviour of their own."""

from dk_detr.structures.features import FeaturePyramid, Memory
from dk_detr.structures.knowledge import Candidates, RegionKnowledge, Regions, Scene
from dk_detr.structures.predictions import Predictions, Trace
from dk_detr.structures.queries import QueryGroup, QuerySet, hide
from dk_detr.structures.targets import Assignment, Targets
from dk_detr.structures.vocabulary import Vocabulary, require_words

__all__ = [
    "Assignment", "Candidates", "FeaturePyramid", "Memory", "Predictions", "QueryGroup", "QuerySet", "RegionKnowledge",
    "Regions", "Scene", "Targets", "Trace", "Vocabulary", "hide", "require_words",
]  # fmt: skip
