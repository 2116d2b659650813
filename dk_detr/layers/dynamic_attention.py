"""Dynamic attention: a tiny deformable attention over one small map, with weights of its own for each instance.

N instances, S cells of the map, row by row. Source: SOIT (AAAI 2022), as released.
"""

import torch
from torch import Tensor

from dk_detr.layers.grid import grid_of_cells
from dk_detr.layers.ops import ms_deform_attn

CHANNELS, HEADS, POINTS = 8, 4, 4
_SAMPLES = HEADS * POINTS
_SIZES = (2 * _SAMPLES * CHANNELS, 2 * _SAMPLES, _SAMPLES * CHANNELS, _SAMPLES, CHANNELS, 1)
NUM_WEIGHTS = sum(_SIZES)
"""Of an instance: offsets, weight (head, point, x or y; channel) and bias; attention, weight (head, point; channel) and
bias; output, weight and bias. In this order, 441 numbers."""


def dynamic_attention(
    values: Tensor, codes: Tensor, weights: Tensor, shape: tuple[int, int], backend: str = "auto"
) -> Tensor:
    """One logit for each cell: each looks at a few places near its own, as the instance's weights say.

    Args:
        values: (N, S, 8) of the cells, 0 where a cell is padding. codes: (N, S, 8), what a cell asks with.
        weights: (N, 441), see NUM_WEIGHTS. shape: (h, w) of the map. backend: see `ms_deform_attn`.

    Returns: (N, S) logits. Places outside of the map are 0.
    """
    parts = weights.split(_SIZES, dim=1)
    grid = grid_of_cells((shape,), values.device)
    sides = grid.sides[0, 0]
    per_side = (1 / sides).repeat(_SAMPLES)  # offsets are in cells; their weights are fewer numbers to divide
    offset, share, output = (part.unflatten(1, (-1, CHANNELS)) for part in parts[::2])
    offsets = _linear(codes, offset * per_side[:, None], parts[1] * per_side)
    places = offsets.unflatten(-1, (HEADS, 1, POINTS, 2)) + (grid.centers[0] / sides)[:, None, None, None]
    shares = _softmax_of_points(codes, share, parts[3]).unflatten(-1, (HEADS, 1, POINTS))
    seen = ms_deform_attn(values.unflatten(-1, (HEADS, -1)), (shape,), places, shares, backend)
    return _linear(seen.relu(), output, parts[5])[..., 0]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer for each instance: x (N, S, I), weight (N, O, I), bias (N, O) -> (N, S, O)."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def _softmax_of_points(codes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(N, S, head and point) shares, of a linear layer as `_linear` takes it. Over a last dimension of four a softmax
    takes five times as long as this one."""
    rows = torch.baddbmm(bias[:, :, None], weight, codes.transpose(1, 2))
    return rows.unflatten(1, (HEADS, POINTS)).softmax(2).flatten(1, 2).transpose(1, 2)
