"""Multi-scale deformable attention as a module: where to look is predicted from the query.

B images, Q queries, C channels, S tokens, H heads, L levels, P points.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dk_detr.layers.grid import grid_of_cells
from dk_detr.layers.ops import ms_deform_attn


class MSDeformAttn(nn.Module):
    """Each query samples P places per head and level around its reference. Source: Deformable DETR, §4.1, A.3.

    Args:
        channels: C, a multiple of `num_heads`. backend: see `ms_deform_attn`.
    """

    def __init__(
        self, channels: int, num_heads: int, num_levels: int, num_points: int, backend: str = "auto"
    ) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"{channels} channels do not divide among {num_heads} heads.")
        self.num_heads, self.num_levels, self.num_points, self.backend = num_heads, num_levels, num_points, backend
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(channels, samples * 2)
        self.attention_weights = nn.Linear(channels, samples)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads start by looking in H directions, the p-th point p cells away, all with the same weight."""
        angles = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1)
        offsets = directions[:, None, None] * steps[:, None]
        offsets = offsets.expand(self.num_heads, self.num_levels, self.num_points, 2)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer, init in ((self.attention_weights, nn.init.zeros_), (self.value_proj, nn.init.xavier_uniform_),
                            (self.output_proj, nn.init.xavier_uniform_)):  # fmt: skip
            init(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        shapes: Sequence[tuple[int, int]],
        padding: Tensor | None = None,
        valid_ratios: Tensor | None = None,
    ) -> Tensor:
        """Look at the tokens.

        Args:
            query: (B, Q, C), position included. reference: (B, Q, 2) points or (B, Q, 4) boxes cxcywh, in [0, 1] of
                the unpadded image; offsets are in cells around a point, in halves of the box around a box.
            tokens: (B, S, C). shapes, padding (B, S), valid_ratios (B, L, 2): see `Memory`.

        Returns: (B, Q, C).
        """
        value = self.value_proj(tokens)
        if padding is not None:
            value = value.masked_fill(padding[..., None], 0.0)
        locations, weights = self.samples(query, reference, shapes, valid_ratios)
        out = ms_deform_attn(value.unflatten(-1, (self.num_heads, -1)), shapes, locations, weights, self.backend)
        return self.output_proj(out)

    def samples(
        self,
        query: Tensor,
        reference: Tensor,
        shapes: Sequence[tuple[int, int]],
        valid_ratios: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Where each query looks and how much that counts: (B, Q, H, L, P, 2) places (x, y) in [0, 1] of the padded
        levels, and (B, Q, H, L, P) weights, whose sum over levels and points is 1. Arguments: see `forward`."""
        grid = (self.num_heads, self.num_levels, self.num_points)
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1).unflatten(-1, grid[1:])
        offsets = self.sampling_offsets(query).unflatten(-1, (*grid, 2))
        return self._locations(reference, offsets, shapes, valid_ratios), weights

    def _locations(
        self, reference: Tensor, offsets: Tensor, shapes: Sequence[tuple[int, int]], valid_ratios: Tensor | None
    ) -> Tensor:
        """(B, Q, H, L, P, 2) places in [0, 1] of the padded levels, in the precision of the reference."""
        reference = reference[:, :, None, None, None]  # (B, Q, 1, 1, 1, 2 or 4)
        if valid_ratios is not None:
            reference = reference * valid_ratios.repeat(1, 1, reference.shape[-1] // 2)[:, None, None, :, None]
        if reference.shape[-1] == 2:
            unit = 1 / grid_of_cells(tuple(shapes), reference.device).sides[0, :, None]
        else:
            unit = reference[..., 2:] * (0.5 / self.num_points)
        return torch.addcmul(reference[..., :2], offsets, unit)
