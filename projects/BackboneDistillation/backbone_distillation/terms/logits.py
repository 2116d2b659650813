"""Logits: the teacher's probabilities of all words, softened. B crops, K words."""

from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from dk_detr.utils import require
from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms.term import Term, require_positive

ACTIVATIONS = ("softmax", "sigmoid")


def softened_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(softmax(teacher / T) ‖ softmax(student / T)) of (B, K) logits, mean over crops. T² keeps the size of
    gradients.

    Source: Hinton et al., 2015.
    """
    ours, theirs = (logits.float().div(temperature).log_softmax(-1) for logits in (student, teacher.detach()))
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def soft_decisions(student: Tensor, teacher: Tensor) -> Tensor:
    """Binary cross-entropy of (B, K) logits with the teacher's probabilities, sum over words, mean over crops."""
    wanted = teacher.detach().float().sigmoid()
    return F.binary_cross_entropy_with_logits(student.float(), wanted, reduction="none").sum(-1).mean()


class Logits(Term):
    """See the functions of this module.

    Args:
        weight, temperature, activation: see MODEL.BACKBONE_KD.
    """

    def __init__(self, weight: float, temperature: float, activation: str) -> None:
        self.weight, self.temperature, self.activation = weight, temperature, activation

    @classmethod
    def build(cls, kd: CfgNode) -> "Logits":
        """See `Term`."""
        require("MODEL.BACKBONE_KD.ACTIVATION", kd.ACTIVATION, ACTIVATIONS)
        require_positive("LOGITS.TEMPERATURE", kd.LOGITS.TEMPERATURE)
        return cls(kd.LOGITS.WEIGHT, kd.LOGITS.TEMPERATURE, kd.ACTIVATION)

    def __call__(self, student: Seen, teacher: Seen) -> dict[str, Tensor]:
        """See `Term`."""
        pair = student.logits, teacher.logits
        loss = softened_kl(*pair, self.temperature) if self.activation == "softmax" else soft_decisions(*pair)
        return {"loss_kd_logits": self.weight * loss}
