"""Criterion: which prediction answers for which object, and what each is charged for."""

from dk_detr.criterion.class_losses import CLASS_LOSSES, BoxesOnly, ClassLoss, CrossEntropy, Focal
from dk_detr.criterion.masks import MaskCriterion
from dk_detr.criterion.matcher import HungarianMatcher
from dk_detr.criterion.negatives import NEGATIVES, All, Federated, Negatives, OtherClusters
from dk_detr.criterion.num_objects import mean_num_objects
from dk_detr.criterion.set_criterion import SetCriterion
from dk_detr.criterion.terms import BOX_TERMS, L1_FORMS, BoxCornersL1, BoxGIoU, BoxL1, Quality, Term

__all__ = [
    "BOX_TERMS", "CLASS_LOSSES", "L1_FORMS", "NEGATIVES", "All", "BoxCornersL1", "BoxGIoU", "BoxL1", "BoxesOnly",
    "ClassLoss", "CrossEntropy", "Federated", "Focal", "HungarianMatcher", "MaskCriterion", "Negatives",
    "OtherClusters", "Quality", "SetCriterion", "Term", "mean_num_objects",
]  # fmt: skip
