"""The definition of multi-scale deformable attention in plain torch: one bilinear `grid_sample` a level."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def ms_deform_attn_reference(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """See `ms_deform_attn`. Works on every device, under `torch.export` too, and with double backward."""
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    # Half floats know places on a map of 128 cells to an eighth of a cell only.
    dtype = torch.promote_types(value.dtype, torch.float32)
    grids = 2 * sampling_locations.to(dtype) - 1
    weights = attention_weights.to(dtype).permute(0, 2, 3, 1, 4).flatten(0, 1)  # (B·H, L, Q, P)
    output = value.new_zeros(batch * heads, width, queries, dtype=dtype)
    parts = value.to(dtype).split([h * w for h, w in spatial_shapes], dim=1)
    for level, ((h, w), part) in enumerate(zip(spatial_shapes, parts)):
        maps = part.permute(0, 2, 3, 1).reshape(batch * heads, width, h, w)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)  # (B·H, Q, P, 2)
        sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        sampled = sampled + (grid * 0).sum(-1)[:, None]  # CUDA's grid_sample takes NaN for a place outside
        output = output + torch.einsum("ndqp,nqp->ndq", sampled, weights[:, level])
    return output.reshape(batch, heads * width, queries).transpose(1, 2).to(value.dtype).contiguous()
