"""DynamicMasks: each query brings the weights of a tiny layer that draws its object on the memory's finest level.

B images, N queries, C channels, S cells of the finest level.
"""

from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import MLP, dynamic_attention, grid_of_cells, sine_code
from dk_detr.layers.dynamic_attention import CHANNELS, NUM_WEIGHTS
from dk_detr.modeling.attention import ATTENTIONS, AttentionSizes
from dk_detr.modeling.encoder import EncoderLayer
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.structures import Memory

NUM_POINTS = 4  # of the encoder layer's one head


class DynamicMasks(nn.Module):
    """Draws masks. It reads what the decoder made, and changes nothing of it.

    Args:
        layer: of an encoder, for the finest level alone. channels: C. backend: see `ms_deform_attn`.

    Source: SOIT (AAAI 2022); the form of its release, which DK-DETR has, too.
    """

    @configurable
    def __init__(self, layer: EncoderLayer, channels: int, backend: str = "auto") -> None:
        super().__init__()
        self.layer = layer
        self.reduce = nn.Sequential(nn.Linear(channels, CHANNELS), nn.LayerNorm(CHANNELS))
        nn.init.xavier_uniform_(self.reduce[0].weight)  # type: ignore[arg-type]
        self.weights = MLP(channels, channels, NUM_WEIGHTS, num_layers=3)
        self.backend = backend

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        tokens = ATTENTIONS["Deformable"].tokens
        assert tokens is not None
        sizes = AttentionSizes(detr.CHANNELS, 1, detr.DROPOUT, 1, NUM_POINTS, detr.ATTENTION_BACKEND)
        layer = EncoderLayer(tokens(sizes), FeedForward(cfg), detr.CHANNELS, detr.DROPOUT)
        return {"layer": layer, "channels": detr.CHANNELS, "backend": detr.ATTENTION_BACKEND}

    def read(self, memory: Memory) -> Memory:
        """The memory of masks: one level of 8 channels, which all queries draw on."""
        finest = _finest(memory)
        assert finest.position is not None  # the encoder says it
        tokens = self.reduce(self.layer(finest.tokens, finest.position, finest))
        return replace(finest, tokens=tokens, position=None)

    def forward(self, hidden_states: Tensor, boxes: Tensor, image: Tensor, memory: Memory) -> Tensor:
        """Draw.

        Args:
            hidden_states: (N, C) of queries of any decoder layer. boxes: (N, 4) theirs, cxcywh in [0, 1] of the
                unpadded image; no gradient reaches them. image: (N,) of the batch. memory: of `read`.

        Returns: (N, h, w) logits on the padded map, in full precision: half floats cannot tell its cells apart.
        """
        with torch.autocast(memory.tokens.device.type, enabled=False):
            shape, tokens = memory.shapes[0], memory.tokens.float()
            values = tokens if memory.padding is None else tokens.masked_fill(memory.padding[..., None], 0.0)
            valid = None if memory.valid_size is None else memory.valid_size[image, 0]
            places = relative_codes(boxes[:, :2].detach().float(), shape, valid)
            weights = self.weights(hidden_states.float())
            logits = dynamic_attention(values[image], tokens[image] + places, weights, shape, self.backend)
            return logits.unflatten(1, shape)


def relative_codes(centers: Tensor, shape: tuple[int, int], valid: Tensor | None = None) -> Tensor:
    """Where cells lie, seen from an object: sine codes of the distances in y and in x, in shares of the image.

    Cells are counted from 1, without a half; in padding the count stays at the last valid one, and is 0 in rows (for x)
    and columns (for y) that are padding throughout.

    Args:
        centers: (N, 2) x, y in [0, 1] of the unpadded image. shape: (h, w) of the map.
        valid: (N, 2) cells (x, y) of the image; None for all.

    Returns: (N, h·w, 8).
    """
    h, w = shape
    extent = grid_of_cells((shape,), centers.device).sides[0] if valid is None else valid
    columns, rows = (torch.arange(1, side + 1, device=centers.device)[None] for side in (w, h))
    code_x = _code(columns.minimum(extent[:, :1]), extent[:, :1], centers[:, :1])[:, None].expand(-1, h, -1, -1)
    code_y = _code(rows.minimum(extent[:, 1:]), extent[:, 1:], centers[:, 1:])[:, :, None].expand(-1, -1, w, -1)
    if valid is not None:
        nowhere_x, nowhere_y = (_code(extent[:, :1] * 0, extent[:, :1], c)[:, None] for c in centers.split(1, dim=1))
        code_x = torch.where((rows > extent[:, 1:])[:, :, None, None], nowhere_x, code_x)
        code_y = torch.where((columns > extent[:, :1])[:, None, :, None], nowhere_y, code_y)
    return torch.cat([code_y, code_x], dim=-1).flatten(1, 2)


def _code(count: Tensor, extent: Tensor, center: Tensor) -> Tensor:
    """(N, side) counts, (N, 1) valid cells and centres -> (N, side, 4)."""
    return sine_code(count / (extent + 1e-6) - center, CHANNELS // 2)


def _finest(memory: Memory) -> Memory:
    """The first level alone."""
    h, w = memory.shapes[0]
    ratios, valid, padding, position = memory.valid_ratios, memory.valid_size, memory.padding, memory.position
    return replace(
        memory,
        tokens=memory.tokens[:, : h * w],
        shapes=memory.shapes[:1],
        centers=memory.centers[:, : h * w],
        valid_size=None if valid is None else valid[:, :1],
        padding=None if padding is None else padding[:, : h * w],
        valid_ratios=None if ratios is None else ratios[:, :1],
        position=None if position is None else position[:, : h * w],
    )
