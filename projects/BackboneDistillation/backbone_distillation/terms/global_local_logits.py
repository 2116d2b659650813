"""Global and local logits: whole crops and cells of them, each standardised. B crops, K words."""

from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms.term import Term, require_positive, with_cells

EPS = 1e-7  # the least standard deviation


def standardised(logits: Tensor) -> Tensor:
    """(…, K) with mean 0 and standard deviation 1 over the words: a temperature for each crop."""
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS**2).sqrt()  # at 0 a root has no gradient


def normalised_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """(…, K) logits -> (…) KL of the softmax of standardised logits, teacher ‖ student."""
    ours, theirs = (standardised(logits.float()).log_softmax(-1) for logits in (student, teacher.detach()))
    return F.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)


class GlobalLocalLogits(Term):
    """Divergences of the whole crop, and summed over the cells, means over crops.

    Args:
        global_weight, local_weight, cells: see MODEL.BACKBONE_KD.GLOBAL_LOCAL_LOGITS.

    Source: Kim et al. (ICCV 2021).
    """

    compares_cells = True

    def __init__(self, global_weight: float, local_weight: float, cells: int) -> None:
        self.global_weight, self.local_weight, self.cells = global_weight, local_weight, cells

    @classmethod
    def build(cls, kd: CfgNode) -> "GlobalLocalLogits":
        """See `Term`."""
        own = kd.GLOBAL_LOCAL_LOGITS
        require_positive("GLOBAL_LOCAL_LOGITS.CELLS", own.CELLS)
        return cls(own.GLOBAL_WEIGHT, own.LOCAL_WEIGHT, own.CELLS)

    def __call__(self, student: Seen, teacher: Seen) -> dict[str, Tensor]:
        """See `Term`."""
        divergence = normalised_kl(with_cells(student, self.cells), with_cells(teacher, self.cells)).mean(0)
        return {
            "loss_kd_global_logits": self.global_weight * divergence[0],
            "loss_kd_local_logits": self.local_weight * divergence[1:].sum(),
        }
