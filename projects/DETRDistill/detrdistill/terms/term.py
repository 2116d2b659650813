"""Term: one thing that a student takes over from the teacher."""

from abc import ABC, abstractmethod

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from projects.DETRDistill.detrdistill.features import Level, PairedLevels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step

VARIANTS = ("paper", "release")


class Term(nn.Module, ABC):
    """Built from MODEL.DETRDISTILL and the two detectors. What it learns itself is of training only.

    Attributes:
        groups: names of the query groups that it needs beside the detection queries, see points.py.
        compares_classes: whether it compares logits, so that both must judge the same words alike.
        asks_words: whether it asks the teacher about the student's words at all.
    """

    groups: tuple[str, ...] = ()
    compares_classes = True
    asks_words = True

    @classmethod
    @abstractmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "Term":
        """Raises ValueError for detectors that cannot be paired, naming both."""

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Weighted losses by name, the same names in every step."""


class FeatureTerm(Term):
    """Compares features, level by level; sums over levels.

    Args:
        levels: that are compared.
    """

    compares_classes = asks_words = False

    def __init__(self, levels: PairedLevels) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        losses = [self.of_level(number, level, step) for number, level in enumerate(self.levels(step))]
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

    @abstractmethod
    def of_level(self, number: int, level: Level, step: Step) -> dict[str, Tensor]:
        """The weighted losses of one level."""
