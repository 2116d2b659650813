"""Deformable attention on NVIDIA and AMD GPUs: plain tensors in and out, the kernels of `triton_kernels` in between.

Importing this module needs no Triton and no GPU; `unavailable` says whether the functions work here. Arithmetic is in
float32 (float64 where the values are float64), whatever the dtypes of the arguments; they need not agree.
"""

import functools
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# Chosen by the compiled code, not by timing, since no GPU was at hand: loads of 16 bytes and, below float64 and in the
# fast mode, no barrier and no spilled register. They may be changed freely while a test finds the code to stay so.
FORWARD_WARPS = 4
"""Of one program, at most. More share what neighbouring queries read; a program waits for its slowest warp."""
BACKWARD_WARPS = 1
"""A warp exchanges numbers in its registers; several would wait at a barrier about six times a point."""
NUMBERS_OF_A_WARP = 256
"""Queries times channels: 8 numbers a thread, 16 bytes of half precision."""
MOST_QUERIES = 32
"""Of one program, however narrow the heads: with more queries than threads, Triton moves samples between threads."""


def forward(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """`ms_deform_attn` of value (B, S, H, D), locations (B, Q, H, L, P, 2) and weights (B, Q, H, L, P).

    Returns: (B, Q, H·D) in the dtype of value.
    Raises: ValueError on a device or dtype that it does not work on.
    """
    _check(value, locations, weights)
    shape = (*weights.shape[:2], weights.shape[2] * value.shape[3])
    if not (value.numel() and weights.numel()):
        return value.new_zeros(shape)
    inputs = (value.contiguous(), locations.contiguous(), weights.contiguous())
    output = value.new_empty(shape)
    _launch(_kernels().forward_kernel, (output, *inputs), spatial_shapes, FORWARD_WARPS)
    return output


def backward(
    grad_output: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, in their dtypes, from that of `forward`'s answer (B, Q, H·D).

    Samples that share a cell add to it in an order that changes from run to run, and so do the last bits of its sum.
    Under `torch.use_deterministic_algorithms(True)` whole numbers are added (see `_fixed_point_scale`), whose sum knows
    no order. (The other two gradients are summed by one program each, always in the same order.) The price: 8 bytes for
    each number of value instead of 4, one more reading of grad_output and weights, and atomic additions of 8 bytes each
    where a Hopper GPU otherwise adds 16 at once. Expect it to be several times slower; it has not been timed.
    """
    _check(value, locations, weights, grad_output)
    if not (value.numel() and weights.numel()):
        return value.new_zeros(value.shape), locations.new_zeros(locations.shape), weights.new_zeros(weights.shape)
    dtype, fixed_point = _arithmetic(value), torch.are_deterministic_algorithms_enabled()
    value, locations, weights = value.contiguous(), locations.contiguous(), weights.contiguous()
    scale = _fixed_point_scale(grad_output, weights, dtype) if fixed_point else value.new_ones(1, dtype=dtype)
    sums = torch.zeros_like(value, dtype=torch.int64 if fixed_point else dtype)
    grads = torch.empty_like(locations), torch.empty_like(weights)
    tensors = (sums, *grads, scale, grad_output.contiguous(), value, locations, weights)
    _launch(_kernels().backward_kernel, tensors, spatial_shapes, BACKWARD_WARPS, FIXED_POINT=fixed_point)
    if fixed_point:
        sums = sums.to(dtype) / scale[:, None, :, None]
    return sums.to(value.dtype), *grads


@functools.cache
def unavailable() -> str | None:
    """Why the backend does not work on this machine, in words, or None where it does. Found out by a trial, once."""
    try:
        if not (_kernels().INTERPRETED or torch.cuda.is_available()):
            return "torch finds no CUDA or ROCm device"
        _try_out("cuda" if torch.cuda.is_available() else "cpu")
    except ImportError as error:
        return f"Triton cannot be imported ({error})"
    except Exception as error:  # noqa: BLE001  Triton, the C compiler that it calls and the driver have many ways to fail
        return f"a trial of its Triton kernels failed ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    return None


def moved_bytes(value: Tensor, locations: Tensor, weights: Tensor) -> int:
    """The least traffic of `forward` with global memory: each input read once, the answer written once.

    Values that several samples share count once: caches can, in principle, hold them.
    """
    answer = math.prod(weights.shape[:3]) * value.shape[3] * value.element_size()
    return answer + sum(tensor.nbytes for tensor in (value, locations, weights))


def moved_bytes_backward(value: Tensor, locations: Tensor, weights: Tensor) -> int:
    """The least traffic of `backward`: inputs and the answer's gradient read once, three gradients written once.

    What a backend adds of its own is not counted: here the clearing of sums, and their conversion to half precision.
    """
    gradients = sum(tensor.nbytes for tensor in (value, locations, weights))
    return moved_bytes(value, locations, weights) + gradients


@functools.cache
def _kernels() -> ModuleType:
    from dk_detr.layers.ops import triton_kernels

    return triton_kernels


def _check(value: Tensor, *others: Tensor) -> None:
    devices = {str(tensor.device) for tensor in (value, *others)}
    if len(devices) > 1 or not (value.is_cuda or _kernels().INTERPRETED):
        raise ValueError(
            f'Deformable attention with backend "triton" got tensors on {sorted(devices)}; it works on one CUDA or '
            'ROCm device, and elsewhere only in Triton\'s interpreter. Move them there or take backend "auto".'
        )
    if value.dtype not in DTYPES:
        raise ValueError(
            f'Deformable attention with backend "triton" got values of {value.dtype}; convert them to one of {DTYPES}.'
        )


def _arithmetic(value: Tensor) -> torch.dtype:
    return torch.float64 if value.dtype == torch.float64 else torch.float32


def _launch(
    kernel: Any, tensors: Sequence[Tensor], spatial_shapes: Sequence[tuple[int, int]], most_warps: int, **options: bool
) -> None:
    """Starts a kernel on its tensors, which end in value, locations, weights.

    Triton compiles anew for whole numbers that are 1 or multiples of 16, in tuples always. Odd ones above 1 escape
    that, so that a new image size does not cost seconds: sizes travel as 2·size + 1.
    """
    value, _, weights = tensors[-3:]
    batch, queries, heads, levels, points = weights.shape
    tokens, width = value.shape[1], value.shape[3]
    lanes = 1 << (width - 1).bit_length()
    block = min(max(most_warps * NUMBERS_OF_A_WARP // lanes, 1), MOST_QUERIES)
    warps = min(max(block * lanes // NUMBERS_OF_A_WARP, 1), most_warps)
    sizes = tuple((2 * h + 1, 2 * w + 1) for h, w in spatial_shapes)
    constants = {"HEADS": heads, "LEVELS": levels, "POINTS": points, "WIDTH": width, "LANES": lanes, "QUERIES": block}
    dtype = getattr(_kernels().tl, str(_arithmetic(value)).removeprefix("torch."))
    grid = (batch * heads * -(-queries // block),)
    with torch.cuda.device_of(value):
        kernel[grid](*tensors, sizes, tokens, queries, **constants, **options, DTYPE=dtype, num_warps=warps)


def _fixed_point_scale(grad_output: Tensor, weights: Tensor, dtype: torch.dtype) -> Tensor:
    """The powers of two (B, H) that turn gradients of values into whole numbers below 2⁶³, however they add up.

    A sample gives a cell at most |weight| · max |grad_output| of its row, so the sum of these over an image and head
    bounds each of its cells; that sum becomes 2⁶². A step is then 2⁻⁶² of it, or 2⁻⁴⁸ of what an average one of 16 000
    queries adds, while float32 drops 2⁻²⁴ of each sum on the way. A bound that is not finite makes the scale, and
    with it the gradients of that image and head, NaN.

    Why not sort the samples by cell and add in that order: for each sample a key and a place of 8 bytes, twice while
    sorting, are two times the memory of these whole numbers in an encoder of 4 levels, 4 points and 32 channels a head,
    and take kernels of their own; this takes one line in the same kernel.
    """
    largest = grad_output.unflatten(-1, (weights.shape[2], -1)).abs().amax(-1).to(dtype)
    bound = (largest * weights.abs().sum((-2, -1), dtype=dtype)).sum(1)
    exponent = torch.frexp(bound).exponent.clamp(min=-60)  # a scale above 2¹²² would leave float32
    return torch.exp2((62 - exponent).to(dtype)).where(bound.isfinite(), torch.nan)


def _try_out(device: str) -> None:
    value = torch.ones(1, 1, 1, 1, device=device)
    locations = torch.full((1, 1, 1, 1, 1, 2), 0.5, device=device)
    weights = torch.ones(1, 1, 1, 1, 1, device=device)
    output = forward(value, ((1, 1),), locations, weights)
    backward(output, value, ((1, 1),), locations, weights)
    if output.item() != 1:
        raise RuntimeError(f"one cell of 1, seen with weight 1, gave {output.item()}")
