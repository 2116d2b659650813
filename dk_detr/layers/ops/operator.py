"""Makes a pair of kernels, forward and backward, an operator of torch: autograd, autocast, `torch.compile`, DDP."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Shapes = Sequence[tuple[int, int]]
Forward = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]
Backward = Callable[[Tensor, Tensor, Shapes, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def operator(name: str, forward: Forward, backward: Backward) -> Forward:
    """Register `dk_detr::<name>` and its backward; returns a function with the signature of `forward`.

    The kernels see plain tensors and return new ones. The compiler takes both for closed boxes whose shapes it knows.
    There is no second derivative: backend "reference" has one.
    """

    @torch.library.custom_op(f"dk_detr::{name}", mutates_args=())
    def run(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        return forward(value, _pairs(sides), locations, weights)

    @torch.library.custom_op(f"dk_detr::{name}_backward", mutates_args=())
    def run_backward(
        grad_output: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return backward(grad_output, value, _pairs(sides), locations, weights)

    @run.register_fake
    def _(value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Tensor:
        return value.new_empty(value.shape[0], locations.shape[1], value.shape[2] * value.shape[3])

    @run_backward.register_fake
    def _(grad_output: Tensor, value: Tensor, sides: Sequence[int], locations: Tensor, weights: Tensor) -> Any:
        return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (value, locations, weights))

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, ctx.sides, locations, weights = inputs
        ctx.save_for_backward(value, locations, weights)

    def differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
        value, locations, weights = ctx.saved_tensors
        grad_value, grad_locations, grad_weights = run_backward(grad_output, value, ctx.sides, locations, weights)
        return grad_value, None, grad_locations, grad_weights

    run.register_autograd(differentiate, setup_context=keep)

    def call(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
        return run(value, [side for shape in spatial_shapes for side in shape], locations, weights)

    return call


def _pairs(sides: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip(sides[::2], sides[1::2]))
