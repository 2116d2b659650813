"""Multi-scale deformable attention: one function, several backends. "reference" defines it and needs no compiler."""

from collections.abc import Callable, Sequence

from torch import Tensor

from dk_detr.layers.ops.reference import ms_deform_attn_reference

_Backend = Callable[[Tensor, Sequence[tuple[int, int]], Tensor, Tensor], Tensor]
_BACKENDS: dict[str, _Backend] = {"reference": ms_deform_attn_reference}


def available_backends() -> list[str]:
    """Names of the backends that work here, the fastest first."""
    return list(_BACKENDS)


def default_backend() -> str:
    """The backend that "auto" takes."""
    return available_backends()[0]


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
        sampling_locations: (B, Q, H, L, P, 2) as (x, y), [0, 1] over each level from edge to edge; outside is zero.
        attention_weights: (B, Q, H, L, P).
        backend: "auto" or one of `available_backends()`.

    Returns: (B, Q, H·D). Raises: ValueError on shapes that disagree or an unknown backend.
    Source: Deformable DETR (ICLR 2021), eq. 3.
    """
    _check_shapes(value, spatial_shapes, sampling_locations, attention_weights)
    name = default_backend() if backend == "auto" else backend
    if name not in _BACKENDS:
        raise ValueError(f'Deformable attention has no backend "{name}" here; available: {available_backends()}.')
    return _BACKENDS[name](value, spatial_shapes, sampling_locations, attention_weights)


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
