"""Distillation: a frozen teacher, the queries that listen to it, and what they should take over."""

from dk_detr.distillation.branch import Companions, DistillationBranch, Term, TermSettings, build_terms
from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.teachers import CLIPCrops
from dk_detr.distillation.terms import embedding_l1_loss, relational_kd_loss, semantic_kd_loss

__all__ = [
    "CLIPCrops", "Companions", "DistillationBranch", "SlotSelection", "Term", "TermSettings", "build_terms",
    "embedding_l1_loss", "relational_kd_loss", "semantic_kd_loss",
]  # fmt: skip
