"""Criterion: matching and the detection losses."""

from dk_detr.criterion.matcher import HungarianMatcher
from dk_detr.criterion.normaliser import batch_in_parts
from dk_detr.criterion.set_criterion import SetCriterion

__all__ = ["HungarianMatcher", "SetCriterion", "batch_in_parts"]
