"""FitNet: features are to be those of the teacher, everywhere."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from projects.DETRDistill.detrdistill.features import PairedLevels, adapters, paired_levels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.target_aware_features import weighted_squares
from projects.DETRDistill.detrdistill.terms.term import Term


class FitNet(Term):
    """Mean square of the difference of features; sums over levels.

    Source: FitNets, Romero et al. (ICLR 2015), its hints, on the levels of a detector.
    """

    def __init__(self, levels: PairedLevels, adapters: nn.ModuleList, weight: float = 1.0) -> None:
        super().__init__()
        self.levels, self.adapters, self.weight = levels, adapters, weight

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "FitNet":
        """See `Term`."""
        levels = paired_levels(kd.TAP, student, teacher)
        return cls(levels, adapters(levels, student, teacher), kd.FITNET.WEIGHT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        losses = [
            weighted_squares(adapt(level.student).float() - level.teacher, level.valid, level.num_valid)
            for level, adapt in zip(self.levels(step), self.adapters)
        ]
        return {"": self.weight * torch.stack(losses).sum()}
