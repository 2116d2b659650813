"""What a student takes over from the teacher, one file an idea."""

from projects.DETRDistill.detrdistill.terms.contrastive_queries import ContrastiveQueries
from projects.DETRDistill.detrdistill.terms.fgd import FGD
from projects.DETRDistill.detrdistill.terms.fitnet import FitNet
from projects.DETRDistill.detrdistill.terms.hungarian_logits import HungarianLogits
from projects.DETRDistill.detrdistill.terms.kd_detr import CLASSES, KDDETR, LAYERS, POINTS
from projects.DETRDistill.detrdistill.terms.mgd import MGD
from projects.DETRDistill.detrdistill.terms.query_embeddings import QueryEmbeddings
from projects.DETRDistill.detrdistill.terms.query_prior_assignment import QueryPriorAssignment
from projects.DETRDistill.detrdistill.terms.target_aware_features import TargetAwareFeatures
from projects.DETRDistill.detrdistill.terms.term import VARIANTS, Term

TERMS: dict[str, type[Term]] = {
    "hungarian_logits": HungarianLogits,
    "target_aware_features": TargetAwareFeatures,
    "query_prior_assignment": QueryPriorAssignment,
    "contrastive_queries": ContrastiveQueries,
    "fitnet": FitNet,
    "mgd": MGD,
    "fgd": FGD,
    "kd_detr": KDDETR,
    "query_embeddings": QueryEmbeddings,
}
"""By their name in MODEL.DETRDISTILL.TERMS."""

__all__ = [
    "CLASSES", "FGD", "KDDETR", "LAYERS", "MGD", "POINTS", "TERMS", "VARIANTS", "ContrastiveQueries", "FitNet",
    "HungarianLogits", "QueryEmbeddings", "QueryPriorAssignment", "TargetAwareFeatures", "Term",
]  # fmt: skip
