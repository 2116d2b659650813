"""Embeddings: the student's are to be the teacher's, without a label (ReFO)."""

from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms.term import Term


class Embeddings(Term):
    """Mean squared difference of embeddings that are not normalised.

    For the teacher of ReFO it goes the other way: a teacher that learns from labels stays near to a small network, its
    "teacher", so that the student can follow it.

    Args:
        weight: see MODEL.BACKBONE_KD.EMBEDDINGS.

    Source: ReFO, Li et al. (CVPR 2023); form and weight of the loss are not in what was at hand.
    """

    compares_words = False
    compares_embeddings = True

    def __init__(self, weight: float) -> None:
        self.weight = weight

    @classmethod
    def build(cls, kd: CfgNode) -> "Embeddings":
        """See `Term`."""
        return cls(kd.EMBEDDINGS.WEIGHT)

    def __call__(self, student: Seen, teacher: Seen) -> dict[str, Tensor]:
        """See `Term`."""
        loss = F.mse_loss(student.embeddings.float(), teacher.embeddings.detach().float())
        return {"loss_kd_embeddings": self.weight * loss}
