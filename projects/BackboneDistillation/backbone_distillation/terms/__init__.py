"""What a student takes over from its teacher, one file an idea."""

from projects.BackboneDistillation.backbone_distillation.terms.dense_relations import DenseRelations
from projects.BackboneDistillation.backbone_distillation.terms.embeddings import Embeddings
from projects.BackboneDistillation.backbone_distillation.terms.global_local_logits import GlobalLocalLogits
from projects.BackboneDistillation.backbone_distillation.terms.logits import ACTIVATIONS, Logits
from projects.BackboneDistillation.backbone_distillation.terms.term import Term

TERMS: dict[str, type[Term]] = {
    "logits": Logits,
    "global_local_logits": GlobalLocalLogits,
    "dense_relations": DenseRelations,
    "embeddings": Embeddings,
}
"""By their name in MODEL.BACKBONE_KD.TERMS."""

__all__ = ["ACTIVATIONS", "TERMS", "DenseRelations", "Embeddings", "GlobalLocalLogits", "Logits", "Term"]
