"""Interpolation of weights: between what a detector was before fine-tuning and what it is after.

Source: WiSE-FT, Wortsman et al. (CVPR 2022), eq. 1.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from dk_detr.engine.keep.keeper import Keeper

KEY = "interpolation"  # in SOLVER.KEEP, and in checkpoints


def interpolate(start: Mapping[str, Tensor], tuned: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """(1 - `alpha`) · start + `alpha` · tuned, parameters and statistics alike. What is no floating-point number, such
    as a count of batches, is taken from `tuned`.

    Raises: ValueError naming the first entry that only one of them has, or that has two shapes.
    """
    for name in sorted({*start, *tuned}):
        if name not in start or name not in tuned:
            there = "the tuned weights" if name in tuned else "those of the start"
            raise ValueError(f"{name} is in {there} only: weights of one detector are interpolated, these are of two.")
        if start[name].shape != tuned[name].shape:
            shapes = f"{tuple(start[name].shape)} at the start, {tuple(tuned[name].shape)} tuned"
            raise ValueError(f"{name} has two shapes, {shapes}: weights of one detector are interpolated.")
    return {
        name: torch.lerp(start[name].to(weight), weight, alpha) if weight.is_floating_point() else weight
        for name, weight in tuned.items()
    }


def of_detector(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what only training has."""
    return {name: weight for name, weight in weights.items() if not name.startswith("extensions.")}


class Interpolation:
    """The weights between start and now, which are evaluated in place of those of now, and loaded from checkpoints.
    Training goes on from its own.

    Args:
        model: without DDP around it. alpha: share of the weights of now. source: of the start, for checkpoints.
    """

    def __init__(self, model: nn.Module, alpha: float, source: str = "") -> None:
        self.model, self.alpha, self.source = model, alpha, source
        self.start: dict[str, Tensor] = {}

    def begin(self) -> None:
        """What the model has now is the start."""
        self.start = {name: weight.clone() for name, weight in of_detector(self.model.state_dict()).items()}

    @contextmanager
    def in_the_model(self) -> Iterator[None]:
        """The model has the weights between as long as the block lasts, and then, whatever happens, its own."""
        live = of_detector(self.model.state_dict(keep_vars=True))
        own = {name: weight.data for name, weight in live.items()}
        between = interpolate(self.start, own, self.alpha)
        try:
            for name, weight in live.items():
                weight.data = between[name]
            yield
        finally:
            for name, weight in live.items():
                weight.data = own[name]

    def state_dict(self) -> dict[str, Any]:
        """The start, and how far from it."""
        return {"alpha": self.alpha, "source": self.source, "start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the start of a checkpoint, with the share of this config."""
        here = self.model.state_dict()
        self.start = {name: weight.to(here[name].device, copy=True) for name, weight in state["start"].items()}
        self.source = state["source"]


class Interpolated(Keeper):
    """SOLVER.KEEP "interpolation"."""

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode) -> None:
        """See `Keeper`."""
        if not 0 <= cfg.SOLVER.KEEP_ALPHA <= 1:
            raise ValueError(f"SOLVER.KEEP_ALPHA is a share in [0, 1], got {cfg.SOLVER.KEEP_ALPHA}.")
        if cfg.SOLVER.EMA_DECAY is not None:
            raise ValueError(
                f'SOLVER.KEEP "{KEY}" and SOLVER.EMA_DECAY {cfg.SOLVER.EMA_DECAY} both say which weights are evaluated '
                "in place of the last: take one of them out. tools/interpolate_weights.py takes averages, too."
            )


def interpolation_from_config(cfg: CfgNode, model: nn.Module) -> Interpolation | None:
    """What SOLVER.KEEP "interpolation" asks for; None where it does not."""
    return Interpolation(model, cfg.SOLVER.KEEP_ALPHA, cfg.MODEL.WEIGHTS) if KEY in cfg.SOLVER.KEEP else None


def interpolated(checkpoint: Mapping[str, Any]) -> dict[str, Tensor] | None:
    """The weights between that a checkpoint asks for; None where it has no start."""
    between = checkpoint.get(KEY)
    if not isinstance(between, Mapping) or not between.get("start"):
        return None
    return interpolate(between["start"], of_detector(checkpoint["model"]), between["alpha"])
