"""Term: one thing that a student takes over from its teacher."""

from abc import ABC, abstractmethod

import torch
from detectron2.config import CfgNode
from torch import Tensor

from projects.BackboneDistillation.backbone_distillation.seen import Seen


class Term(ABC):
    """Built from MODEL.BACKBONE_KD.

    Attributes:
        compares_words: whether it compares logits, so that the teacher must know the student's words.
        compares_cells: whether it looks at cells of a map. compares_embeddings: whether both must be of one width.
    """

    compares_words = True
    compares_cells = False
    compares_embeddings = False

    @classmethod
    @abstractmethod
    def build(cls, kd: CfgNode) -> "Term":
        """Raises ValueError for settings that cannot be."""

    @abstractmethod
    def __call__(self, student: Seen, teacher: Seen) -> dict[str, Tensor]:
        """Weighted losses by name."""


def require_positive(key: str, value: float) -> None:
    """Raises ValueError naming the key below MODEL.BACKBONE_KD."""
    if not value > 0:
        raise ValueError(f"MODEL.BACKBONE_KD.{key} must be above 0, got {value}.")


def with_cells(seen: Seen, cells: int) -> Tensor:
    """(B, 1 + d², K) logits: of the whole crop, then of each cell."""
    assert seen.of_cells is not None  # refused when built
    return torch.cat([seen.logits.float()[:, None], seen.of_cells(cells).float()], dim=1)
