"""Precision of a training step: full, or mixed by torch's autocast (SOLVER.AMP).

Evaluation is in full precision, as in Detectron2. Classifier scores, boxes, matching and losses are so always.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.amp import GradScaler

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def no_scaler() -> GradScaler:
    """A gradient scaler that changes nothing."""
    return GradScaler("cpu", enabled=False)


@dataclass(frozen=True)
class Precision:
    """The precision that a step computes in.

    Attributes:
        device: type of the device that is computed on.
        dtype: what autocast computes in where it may; None for full precision everywhere.
        scaler: lifts the small gradients of float16 above zero, and skips the step where large ones overflow.
    """

    device: str = "cpu"
    dtype: torch.dtype | None = None
    scaler: GradScaler = field(default_factory=no_scaler)

    def autocast(self) -> torch.autocast:
        """The context of a forward."""
        return torch.autocast(self.device, self.dtype, enabled=self.dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss, scaled."""
        self.scaler.scale(loss).backward()

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Unscale the gradients, and let the optimizer step."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """The state of the gradient scaler; empty without one."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the scale of a checkpoint; where it has none, with the default."""
        if state:
            self.scaler.load_state_dict(state)


def precision_from_config(cfg: CfgNode) -> Precision:
    """The precision of SOLVER.AMP. Raises ValueError for a dtype that is unknown or not for this device."""
    device, amp = torch.device(cfg.MODEL.DEVICE).type, cfg.SOLVER.AMP
    if not amp.ENABLED:
        return Precision(device)
    if amp.DTYPE not in DTYPES:
        raise ValueError(f'SOLVER.AMP.DTYPE is "{amp.DTYPE}"; choose one of {", ".join(DTYPES)}.')
    if amp.DTYPE == "bfloat16":
        return Precision(device, torch.bfloat16)
    if device == "cpu":
        raise ValueError('SOLVER.AMP.DTYPE "float16" needs a GPU, but MODEL.DEVICE is "cpu"; there "bfloat16" works.')
    return Precision(device, torch.float16, GradScaler(device))
