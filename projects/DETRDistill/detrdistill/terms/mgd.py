"""MGD: from features with holes the student makes up those of the teacher."""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from projects.DETRDistill.detrdistill.features import Level, PairedLevels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import FeatureTerm


class MGD(FeatureTerm):
    """Sum of squares of the difference of what a small network makes of the masked features, and the teacher's; mean
    over images. New holes in every step.

    Args:
        weight: of the loss. masked: share of cells that are hidden.

    Source: MGD, Yang et al. (ECCV 2022).
    """

    def __init__(self, levels: PairedLevels, weight: float, masked: float = 0.65) -> None:
        super().__init__(levels)
        self.weight, self.masked, channels = weight, masked, levels.channels
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
            )
            for _ in range(len(levels))
        )

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "MGD":
        """See `Term`."""
        return cls(PairedLevels.of(kd.TAP, student, teacher), kd.MGD.WEIGHT, kd.MGD.MASKED)

    def of_level(self, number: int, level: Level, step: Step) -> dict[str, Tensor]:
        """See `FeatureTerm`."""
        shown = (torch.rand_like(level.valid) > self.masked).float()[:, None]
        made = self.generators[number](level.student * shown).float()
        squares = (made - level.teacher).square() * level.valid[:, None]
        return {"": self.weight * squares.sum() / len(squares)}
