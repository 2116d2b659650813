"""The CPU backend of deformable attention: cpu_kernels.cpp, compiled at first use and kept (see library.py)."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from dk_detr.layers.ops.library import load_library


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("images", "tokens", "heads", "channels", "queries", "levels", "points")
    ]


def unavailable() -> str | None:
    """Why this backend does not work here, or None. The first call on a machine compiles, about two seconds."""
    try:
        load_library()
    except OSError as error:
        return str(error)
    return None


def forward(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """See `ms_deform_attn`; half floats are computed in float32."""
    inputs = _exact(value, locations, weights)
    images, _, heads, channels = value.shape
    output = inputs[0].new_empty(images, locations.shape[1], heads * channels)
    _call("forward", inputs[0], spatial_shapes, locations.shape, [*inputs, output])
    return output.to(value.dtype)


def backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights, each in the dtype of what it belongs to.

    The same to the last bit on any number of threads: images and heads run in parallel, nothing else does.
    """
    inputs = _exact(value, locations, weights)
    grad_value, grad_locations, grad_weights = torch.zeros_like(inputs[0]), *map(torch.empty_like, inputs[1:])
    tensors = [grad_output.to(inputs[0].dtype).contiguous(), *inputs, grad_value, grad_locations, grad_weights]
    _call("backward", inputs[0], spatial_shapes, locations.shape, tensors)
    return grad_value.to(value.dtype), grad_locations.to(locations.dtype), grad_weights.to(weights.dtype)


def _exact(value: Tensor, locations: Tensor, weights: Tensor) -> list[Tensor]:
    """The three as the kernel wants them: contiguous, of the dtype that it computes in."""
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return [x.detach().to(dtype).contiguous() for x in (value, locations, weights)]


def _call(
    name: str,
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    locations_shape: torch.Size,
    tensors: Sequence[Tensor],
) -> None:
    """Run a function of cpu_kernels.cpp; ctypes lets other Python threads run meanwhile."""
    _, queries, _, levels, points, _ = locations_shape
    sizes = _Sizes(*value.shape, queries, levels, points)
    shapes = (ctypes.c_int64 * (2 * levels))(*(side for shape in spatial_shapes for side in shape))
    function = getattr(load_library(), f"{name}_{str(value.dtype).removeprefix('torch.')}")
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    function(ctypes.byref(sizes), shapes, ctypes.c_int(torch.get_num_threads()), *pointers)
