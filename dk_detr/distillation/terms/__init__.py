"""What a student should take over from the teacher, one file an idea. N regions, E embedding width."""

from dk_detr.distillation.terms.embedding_l1 import embedding_l1_loss
from dk_detr.distillation.terms.relational import relational_kd_loss
from dk_detr.distillation.terms.semantic import semantic_kd_loss
from dk_detr.distillation.terms.term import TERMS, DistillationTerm, TermSettings, build_terms

__all__ = [
    "TERMS", "DistillationTerm", "TermSettings", "build_terms", "embedding_l1_loss", "relational_kd_loss",
    "semantic_kd_loss",
]  # fmt: skip
