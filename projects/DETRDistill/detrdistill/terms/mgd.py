"""MGD: from features with holes the student makes up those of the teacher."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from projects.DETRDistill.detrdistill.features import PairedLevels, adapters, paired_levels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term


class MGD(Term):
    """Sum of squares of the difference of what a small network makes of the masked features, and the teacher's; mean
    over images, sums over levels. New holes in every step.

    Args:
        channels: of the teacher. masked: share of cells that are hidden.

    Source: MGD, Yang et al. (ECCV 2022).
    """

    def __init__(
        self, levels: PairedLevels, adapters: nn.ModuleList, channels: int, weight: float, masked: float = 0.65
    ) -> None:
        super().__init__()
        self.levels, self.adapters, self.weight, self.masked = levels, adapters, weight, masked
        self.makers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in adapters
        )

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "MGD":
        """See `Term`."""
        levels = paired_levels(kd.TAP, student, teacher)
        return cls(levels, adapters(levels, student, teacher), teacher.channels, kd.MGD.WEIGHT, kd.MGD.MASKED)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        losses = []
        for level, adapt, make in zip(self.levels(step), self.adapters, self.makers):
            shown = (torch.rand_like(level.valid) > self.masked).float()[:, None]
            squares = (make(adapt(level.student) * shown).float() - level.teacher).square() * level.valid[:, None]
            losses.append(squares.sum() / len(squares))
        return {"": self.weight * torch.stack(losses).sum()}
