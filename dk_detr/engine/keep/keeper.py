"""Keeper: one way to keep the words that a detector knew while it learns others."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from torch import nn


class Keeper:
    """By its name in SOLVER.KEEP. Each method is one moment of a training, and does nothing unless overridden."""

    @classmethod
    def settings(cls, cfg: CfgNode) -> Mapping[str, Any]:
        """Values of other keys that follow from it, by their dotted names. They must follow from themselves, too: the
        config of a run is read again."""
        return {}

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode) -> None:
        """Asked before training. Raises ValueError for a config that it cannot keep anything with, naming the keys."""

    @classmethod
    def freeze(cls, model: nn.Module) -> list[str]:
        """Take parameters out of training, before the optimizer is built; returns their names. Raises ValueError for a
        model that does not have them."""
        return []
