"""Anneal: a factor on the weights of all terms of the distillation that changes over training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode

from dk_detr.utils import current_iteration, record, require

CURVES: dict[str, Callable[[float], float]] = {
    "Constant": lambda progress: 0.0,
    "Linear": lambda progress: progress,
    "Cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
"""By their name in MODEL.KD.ANNEAL.CURVE: from the share of training that is done to the share of the way from FROM to
TO, both in [0, 1]."""


@dataclass(frozen=True)
class Anneal:
    """The factor at each moment of training, see MODEL.KD.ANNEAL.

    Args:
        curve: of `CURVES`. start, end: the factor when training starts and when it has ended.
        num_iterations: of the whole training.

    Source: DeCo-DETR anneals its distillation by a cosine.
    """

    curve: str = "Constant"
    start: float = 1.0
    end: float = 1.0
    num_iterations: int = 1

    def __post_init__(self) -> None:
        require("MODEL.KD.ANNEAL.CURVE", self.curve, CURVES)
        for key, factor in (("FROM", self.start), ("TO", self.end)):
            if not 0 <= factor < math.inf:
                raise ValueError(
                    f"MODEL.KD.ANNEAL.{key} is {factor}; it multiplies the weights of MODEL.KD.TERMS and must be a "
                    "finite number of at least 0."
                )
        self._refuse_what_does_nothing()

    def _refuse_what_does_nothing(self) -> None:
        ends = f"MODEL.KD.ANNEAL.FROM {self.start} and TO {self.end}"
        if self.curve == "Constant" and (self.start, self.end) != (1.0, 1.0):
            raise ValueError(
                f'MODEL.KD.ANNEAL.CURVE "Constant" does not read {ends}: choose "Linear" or "Cosine", or set both to '
                "1.0."
            )
        if self.curve != "Constant" and self.start == self.end:
            raise ValueError(
                f'MODEL.KD.ANNEAL.CURVE "{self.curve}" has nowhere to go with {ends}: set them apart, or choose '
                '"Constant" and change the weights of MODEL.KD.TERMS.'
            )

    def at(self, progress: float) -> float:
        """The factor when a share in [0, 1] of training is done."""
        share = CURVES[self.curve](progress)
        return (1 - share) * self.start + share * self.end

    def factor(self) -> float:
        """The factor of this iteration of the training loop; outside of a loop (tests, notebooks) that of its start.

        It is the same in all parts of a batch, and recorded as `kd_weight` unless it is constant.
        """
        factor = self.at(min((current_iteration() or 0) / self.num_iterations, 1.0))
        if self.curve != "Constant":
            record("kd_weight", factor, smoothed=False)
        return factor


def anneal_from_config(cfg: CfgNode) -> Anneal:
    """Of MODEL.KD.ANNEAL and SOLVER.MAX_ITER. Raises ValueError for what cannot be meant, naming the keys."""
    anneal = cfg.MODEL.KD.ANNEAL
    return Anneal(anneal.CURVE, anneal.FROM, anneal.TO, max(cfg.SOLVER.MAX_ITER, 1))
