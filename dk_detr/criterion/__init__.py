"""Criterion: matching and the detection losses."""

from dk_detr.criterion.class_losses import CLASS_LOSSES, BoxesOnly, ClassLoss, CrossEntropy, Focal
from dk_detr.criterion.matcher import HungarianMatcher
from dk_detr.criterion.normaliser import batch_in_parts, counted_once
from dk_detr.criterion.set_criterion import SetCriterion

__all__ = [
    "CLASS_LOSSES", "BoxesOnly", "ClassLoss", "CrossEntropy", "Focal", "HungarianMatcher", "SetCriterion",
    "batch_in_parts", "counted_once",
]  # fmt: skip
