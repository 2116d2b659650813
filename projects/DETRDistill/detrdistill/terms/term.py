"""Term: one thing that a student takes over from the teacher."""

from abc import ABC, abstractmethod

from detectron2.config import CfgNode
from torch import Tensor, nn

from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step

VARIANTS = ("paper", "release")


class Term(nn.Module, ABC):
    """Built from MODEL.DETRDISTILL and the two detectors. What it learns itself is of training only.

    Attributes:
        groups: names of the query groups that it needs beside the detection queries, see points.py.
    """

    groups: tuple[str, ...] = ()

    @classmethod
    @abstractmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "Term":
        """Raises ValueError for detectors that cannot be paired, naming both."""

    @abstractmethod
    def forward(self, step: Step) -> dict[str, Tensor]:
        """Weighted losses by name, the same names in every step."""
