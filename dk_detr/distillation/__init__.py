"""Distillation: a frozen teacher, the queries that listen to it, and what they should take over."""

from dk_detr.distillation.anneal import Anneal, anneal_from_config
from dk_detr.distillation.distillation import Distillation
from dk_detr.distillation.from_config import (
    build_slots,
    build_teacher,
    refuse_bad_distillation,
    refuse_terms_without_distillation,
)
from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.taught_queries import (
    AUXILIARY,
    AuxiliaryQueries,
    DetectionQueries,
    DistillationPlan,
    SelectedAuxiliaryQueries,
    TaughtQueries,
    TaughtROIHead,
)
from dk_detr.distillation.teachers import TEACHERS, CLIPCrops, CLIPRegions, StoredEmbeddings, Teacher
from dk_detr.distillation.terms import (
    TERMS,
    DistillationTerm,
    TermSettings,
    build_terms,
    embedding_l1_loss,
    relational_kd_loss,
    semantic_kd_loss,
)

__all__ = [
    "AUXILIARY",
    "TEACHERS",
    "TERMS",
    "Anneal",
    "AuxiliaryQueries",
    "CLIPCrops",
    "CLIPRegions",
    "DetectionQueries",
    "Distillation",
    "DistillationPlan",
    "DistillationTerm",
    "SelectedAuxiliaryQueries",
    "SlotSelection",
    "StoredEmbeddings",
    "TaughtQueries",
    "TaughtROIHead",
    "Teacher",
    "TermSettings",
    "anneal_from_config",
    "build_slots",
    "build_teacher",
    "build_terms",
    "embedding_l1_loss",
    "refuse_bad_distillation",
    "refuse_terms_without_distillation",
    "relational_kd_loss",
    "semantic_kd_loss",
]  # fmt: skip
