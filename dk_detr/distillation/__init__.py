"""Distillation: a frozen teacher, the queries that listen to it, and what they should take over."""

from dk_detr.distillation.branch import DistillationBranch, Term, TermSettings, build_terms
from dk_detr.distillation.companions import DISTIL, AllCompanions, ChosenCompanions, Companions, Lesson, NoCompanions
from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.teachers import CLIPCrops, StoredEmbeddings, Teacher
from dk_detr.distillation.terms import embedding_l1_loss, relational_kd_loss, semantic_kd_loss

__all__ = [
    "DISTIL", "AllCompanions", "CLIPCrops", "ChosenCompanions", "Companions", "DistillationBranch", "Lesson",
    "NoCompanions", "SlotSelection", "StoredEmbeddings", "Teacher", "Term", "TermSettings", "build_terms",
    "embedding_l1_loss", "relational_kd_loss", "semantic_kd_loss",
]  # fmt: skip
