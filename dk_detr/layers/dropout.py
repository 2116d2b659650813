"""Dropout that costs little on CPUs, where torch draws a float for each number: an eighth of a training step."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 65536  # probabilities are rounded to one in so many; scales are exact for what they are rounded to


class Dropout(nn.Dropout):
    """`nn.Dropout`, with 16 random bits a number on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(…) -> (…)."""
        if not self.training or not _dropped(self.p):
            return x
        if _leave_to_torch(x, self.p):
            return F.dropout(x, self.p)
        return x * _keep(x, self.p).to(x.dtype).mul_(_scale(self.p))

    def after_relu_(self, x: Tensor) -> Tensor:
        """`forward(x.relu())` in place: no tensor of that size is made, and only the result is kept for backward."""
        if not self.training or not _dropped(self.p):
            return x.relu_()
        if _leave_to_torch(x, self.p):
            return F.dropout(x.relu_(), self.p)
        return _ReluDropout.apply(x, self.p)  # type: ignore[no-any-return]


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.mark_dirty(x)
        ctx.scale = _scale(p)
        torch.where(_keep(x, p), x.relu_(), x.new_zeros(()), out=x)
        ctx.save_for_backward(x.mul_(ctx.scale))
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors  # what is above zero was above zero and kept
        return torch.ops.aten.threshold_backward(grads[0], out, 0).mul_(ctx.scale), None


def _dropped(p: float) -> int:
    return round(p * STEPS)


def _scale(p: float) -> float:
    return STEPS / (STEPS - _dropped(p))


def _leave_to_torch(x: Tensor, p: float) -> bool:
    return x.device.type != "cpu" or _dropped(p) == STEPS or torch.compiler.is_compiling()


def _keep(x: Tensor, p: float) -> Tensor:
    """Which numbers stay, in the shape of x."""
    # The whole range of int64: the bits of four numbers at each call of the generator.
    bits = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    return (bits[: x.numel()] >= _dropped(p) - STEPS // 2).view(x.shape)
