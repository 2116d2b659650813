"""Dense relations: distances between all logits of a batch, of whole crops and of cells. m rows, K words."""

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms.term import Term, require_positive, with_cells


def relations(rows: Tensor) -> Tensor:
    """(m, K) -> (m, m) squared distances, each row of unit length: neither shift, rotation nor scale shows."""
    rows = rows.float()
    lengths = rows.square().sum(-1)
    distances = (lengths[:, None] + lengths - 2 * rows @ rows.T).clamp(min=0)
    apart = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return F.normalize(distances * apart, dim=-1)


def relation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """(m, K) of each -> the mean squared difference of their relations, over m²."""
    return F.mse_loss(relations(student), relations(teacher.detach()))


class DenseRelations(Term):
    """See `relation_loss`.

    Args:
        weight, cells: see MODEL.BACKBONE_KD.DENSE_RELATIONS.

    Source: Kim et al. (ICCV 2021).
    """

    compares_cells = True

    def __init__(self, weight: float, cells: int) -> None:
        self.weight, self.cells = weight, cells

    @classmethod
    def build(cls, kd: CfgNode) -> "DenseRelations":
        """See `Term`."""
        require_positive("DENSE_RELATIONS.CELLS", kd.DENSE_RELATIONS.CELLS)
        return cls(kd.DENSE_RELATIONS.WEIGHT, kd.DENSE_RELATIONS.CELLS)

    def __call__(self, student: Seen, teacher: Seen) -> dict[str, Tensor]:
        """See `Term`."""
        ours, theirs = (with_cells(seen, self.cells).flatten(0, 1) for seen in (student, teacher))
        with torch.autocast(ours.device.type, enabled=False):
            return {"loss_kd_dense_relations": self.weight * relation_loss(ours, theirs)}
