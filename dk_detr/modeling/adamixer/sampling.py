"""AdaptiveSampling: each query samples points around its box, in space and in scale.

B images, Q queries, C channels, S tokens, L levels, G groups of c = C/G channels, P points.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dk_detr.layers import grid_of_cells
from dk_detr.layers.ops import ms_deform_attn
from dk_detr.modeling.adamixer.geometry import scale_and_ratio
from dk_detr.structures import Memory


class AdaptiveSampling(nn.Module):
    """A point lies at (x, y) and at a scale; the nearer a level's stride is to that, the more it counts.

    One fused operation: each point of a query is a query of deformable attention, whose heads are the groups, with one
    sample on each level. The samples of single levels are not kept.

    Args:
        channels: C, a multiple of `groups`. strides: of the levels in pixels. backend: see `ms_deform_attn`.
    """

    def __init__(
        self, channels: int, groups: int, points: int, strides: Sequence[int], backend: str = "auto"
    ) -> None:
        super().__init__()
        self.groups, self.points, self.backend = groups, points, backend
        self.register_buffer("octaves", torch.tensor(strides).float().log2(), persistent=False)
        self.offsets = nn.Linear(channels, groups * points * 3)
        self.reset_parameters()

    octaves: Tensor

    def reset_parameters(self) -> None:
        """At first whatever the query is, points lie anywhere in its box, one octave below its scale."""
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            bias = torch.rand(self.groups, self.points, 3) - 0.5
            bias[..., 2] = -1.0
            self.offsets.bias.copy_(bias.flatten())

    def forward(self, content: Tensor, boxes: Tensor, memory: Memory) -> Tensor:
        """(B, Q, C) content and (B, Q, 4) boxes cxcywh in pixels -> (B, Q, G, P, c). Outside of a map is zero."""
        places, weights = self.samples(content, boxes)
        extent = grid_of_cells(memory.shapes, places.device).sides[0] * self.octaves.exp2()[:, None]
        locations = (places[..., None, :] / extent).flatten(1, 2)[..., None, :]  # (B, Q·P, G, L, 1, 2)
        value = memory.tokens.unflatten(-1, (self.groups, -1))
        sampled = ms_deform_attn(value, memory.shapes, locations, weights.flatten(1, 2)[..., None], self.backend)
        return sampled.unflatten(1, (-1, self.points)).unflatten(-1, (self.groups, -1)).transpose(2, 3)

    def samples(self, content: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Where each query samples, and how much each level counts there: (B, Q, P, G, 2) places (x, y) in pixels, and
        (B, Q, P, G, L) weights, whose sum over the levels is 1. Arguments: see `forward`."""
        offsets = self.offsets(content).float().unflatten(-1, (self.groups, self.points, 3)).transpose(2, 3)
        box = boxes[:, :, None, None]
        places = box[..., :2] + offsets[..., :2] * box[..., 2:]
        scale = scale_and_ratio(box)[..., 0] + offsets[..., 2]
        return places, (-(scale[..., None] - self.octaves).square() / 2).softmax(-1)
