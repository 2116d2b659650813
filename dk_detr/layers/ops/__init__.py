"""Multi-scale deformable attention: one function, several backends.

"triton" is for GPUs; "cpu" needs a C++ compiler, once, for two seconds; "reference" runs everywhere, defines what the
others compute, and is what they fall back to.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dk_detr.layers.ops import cpu, triton_backend
from dk_detr.layers.ops.operator import Forward, operator
from dk_detr.layers.ops.reference import ms_deform_attn_reference

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backend:
    """A way to compute it.

    Attributes:
        run: the function. device: type of the device whose tensors it takes, "" for any.
        unavailable: says why it does not work on this machine, None where it does; may compile.
    """

    run: Forward
    device: str = ""
    unavailable: Callable[[], str | None] = lambda: None


REFERENCE = "reference"
_BACKENDS = {
    "triton": Backend(
        operator("ms_deform_attn_triton", triton_backend.forward, triton_backend.backward),
        "cuda",
        triton_backend.unavailable,
    ),
    "cpu": Backend(operator("ms_deform_attn_cpu", cpu.forward, cpu.backward), "cpu", cpu.unavailable),
    REFERENCE: Backend(ms_deform_attn_reference),
}


def _constant(function: Callable[..., str]) -> Callable[..., str]:
    """Remembers results, and is a constant to torch.compile, which looks through a `functools.cache` that it sees."""
    kept = functools.cache(function)

    @torch.compiler.assume_constant_result
    @functools.wraps(function)
    def call(*arguments: str) -> str:
        return kept(*arguments)

    return call


def available_backends(device: str = "") -> list[str]:
    """Names of the backends that work here, for one type of device or for any; the fastest first."""
    return [
        name
        for name, backend in _BACKENDS.items()
        if (not device or backend.device in ("", device)) and backend.unavailable() is None
    ]


@_constant
def default_backend(device: str = "cpu") -> str:
    """The backend that "auto" takes for tensors on this type of device; the first call says so in the log."""
    for name, backend in _BACKENDS.items():
        if backend.device == device:
            reason = backend.unavailable()
            if reason is None:
                logger.info(f'Deformable attention on {device}: backend "{name}".')
                return name
            logger.warning(f'Deformable attention on {device} falls back to "{REFERENCE}", which is slower: {reason}.')
    return REFERENCE


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    backend: str = "auto",
) -> Tensor:
    """Sum of values at a few sampled places of each level, weighted.

    Args:
        value: (B, S, H, D), the levels one after the other, each row by row.
        spatial_shapes: L pairs (h, w) with Σ h·w = S.
        sampling_locations: (B, Q, H, L, P, 2) as (x, y), [0, 1] over each level from edge to edge; outside is zero,
            but an infinite place, or one that is no number, makes the answer NaN.
            Full precision is worth it: half floats cannot tell neighbouring cells of a large map apart.
        attention_weights: (B, Q, H, L, P).
        backend: "auto" for the fastest that works for this device, or one of `available_backends()`.

    Returns: (B, Q, H·D) in the dtype of `value`; half floats are summed in float32.
    Raises: ValueError on shapes that disagree or a backend that is unknown or does not work here.
    Source: Deformable DETR (ICLR 2021), eq. 3.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    if torch.compiler.is_exporting():  # what is exported should run where dk_detr is not installed
        return ms_deform_attn_reference(value, spatial_shapes, sampling_locations, attention_weights)
    name = default_backend(value.device.type) if backend == "auto" else _checked(backend, value.device.type)
    return _BACKENDS[name].run(value, spatial_shapes, sampling_locations, attention_weights)


@_constant
def _checked(name: str, device: str) -> str:
    if name not in _BACKENDS:
        raise ValueError(f'Deformable attention has no backend "{name}"; available: {available_backends()}.')
    backend = _BACKENDS[name]
    reason = backend.unavailable() if backend.device in ("", device) else f"it is for {backend.device}, not {device}"
    if reason:
        raise ValueError(f'Deformable attention cannot use the backend "{name}": {reason}.')
    return name


def _check_shapes(value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> None:
    tokens = sum(h * w for h, w in spatial_shapes)
    if value.shape[1] != tokens:
        raise ValueError(f"value has {value.shape[1]} tokens, but spatial_shapes {list(spatial_shapes)} make {tokens}.")
    if locations.shape[:-1] != weights.shape or locations.shape[-1] != 2:
        raise ValueError(
            f"sampling_locations {tuple(locations.shape)} and attention_weights {tuple(weights.shape)} disagree; "
            "wanted (B, Q, H, L, P, 2) and (B, Q, H, L, P)."
        )
    images, heads, levels = value.shape[0], value.shape[2], len(spatial_shapes)
    if (locations.shape[0], *locations.shape[2:4]) != (images, heads, levels):
        raise ValueError(
            f"sampling_locations {tuple(locations.shape)} should have {images} images, {heads} heads and {levels} "
            "levels at axes 0, 2 and 3."
        )
