"""Proposals: detection queries from the image itself, the first stage of a two-stage DETR.

The first stage knows only "object" and "no object". That is why it proposes things that no box was ever drawn for.
B images, S tokens, Q queries, C channels.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import box_head, grid_of_cells, inverse_sigmoid, sine_position_of_boxes
from dk_detr.modeling.queries.first_stage import FirstStage
from dk_detr.structures import Memory, Predictions, QueryGroup, hide
from dk_detr.structures.queries import DETECT


class Proposals(nn.Module):
    """Every token says whether it sees an object, and where; the best become queries.

    Args:
        channels: C. num_queries: Q. anchor_size: side of the box that a token of the finest level starts from, as a
            share of the image; it doubles from level to level.

    Source: Deformable DETR, two-stage; class-agnostic as in DK-DETR.
    """

    reference_width = 4  # of boxes cxcywh

    @configurable
    def __init__(self, channels: int, num_queries: int, anchor_size: float = 0.05) -> None:
        super().__init__()
        self.num_queries, self.anchor_size, self.code_width = num_queries, anchor_size, channels // 2
        self.token = linear_norm(channels, channels)
        self.objectness = nn.Linear(channels, 1)
        self.box_head = box_head(channels)
        self.to_query = linear_norm(2 * channels, 2 * channels)
        nn.init.constant_(self.objectness.bias, -math.log(99))  # one token in a hundred shows an object

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {"channels": detr.CHANNELS, "num_queries": detr.NUM_QUERIES, "anchor_size": detr.ANCHOR_SIZE}

    def forward(self, memory: Memory) -> FirstStage:
        """Choose Q places of each image, or all there are where the largest image of the batch has fewer."""
        anchors, valid = self._anchors(memory)
        tokens = self.token(memory.tokens.masked_fill(~valid[..., None], 0.0))
        # Full precision: half floats cannot tell neighbouring scores and corners apart.
        logits = self.objectness(tokens).float()
        boxes = (self.box_head(tokens).float() + inverse_sigmoid(anchors)).sigmoid()
        number = min(self.num_queries, memory.tokens.shape[1])
        top, index = logits.squeeze(-1).detach().masked_fill(~valid, -torch.inf).topk(number, dim=1)
        reference = boxes.detach().gather(1, index[..., None].expand(-1, -1, 4))
        group = self._group(reference, memory.tokens.dtype)
        predictions = Predictions(logits[None], boxes[None], valid)
        # Only an image with fewer places than queries fills up with padding; large ones need not wait for the answer.
        real = valid.gather(1, index) if memory.fewest < 2 * self.num_queries else None
        if real is None or bool(real.all()):
            return FirstStage(group, top, predictions)
        return FirstStage(replace(group, blocked=hide(real)), top, predictions, real)

    def position_and_content(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """(B, Q, 2C) sine codes of the chosen boxes -> two (B, Q, C)."""
        position, content = self.to_query(code).chunk(2, dim=-1)
        return position, content

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, Q, C) where a query looks that starts from (B, Q, 4) boxes cxcywh in [0, 1]."""
        return self._position_and_content(boxes, dtype)[0]

    def _position_and_content(self, boxes: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.position_and_content(sine_position_of_boxes(boxes, self.code_width).to(dtype))

    def _group(self, reference: Tensor, dtype: torch.dtype) -> QueryGroup:
        position, content = self._position_and_content(reference, dtype)
        return QueryGroup(DETECT, content, position, reference, reads=(DETECT,), steered_by=DETECT)

    def _anchors(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Start boxes (B, S, 4) and (B, S) bool, False for tokens in the padding or on the very edge."""
        level = grid_of_cells(memory.shapes, memory.tokens.device).level
        size = (self.anchor_size * 2.0**level)[None, :, None].expand(*memory.centers.shape)
        anchors = torch.cat([memory.centers, size], dim=-1).expand(len(memory.tokens), -1, -1)
        valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
        return anchors, valid if memory.padding is None else valid & ~memory.padding


class Mixed(Proposals):
    """Position from the proposals, content learned: the image says where to look, experience what for.

    All contents start at zero: a slot is only a rank among proposals, and means nothing by itself. Differs from
    `Proposals` in the content alone. Source: mixed query selection of DINO (ICLR 2023), which starts from noise.
    """

    @configurable
    def __init__(self, channels: int, num_queries: int, anchor_size: float = 0.05) -> None:
        super().__init__(channels, num_queries, anchor_size)
        self.to_query = linear_norm(2 * channels, channels)
        self.content = nn.Embedding(num_queries, channels)
        nn.init.zeros_(self.content.weight)

    def position_and_content(self, code: Tensor) -> tuple[Tensor, Tensor]:
        """See `Proposals`; the content is the same for all images."""
        content = self.content.weight[: code.shape[1]].to(code.dtype)
        return self.to_query(code), content.expand(len(code), -1, -1)


def linear_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """A linear layer, Xavier-uniform, and a LayerNorm."""
    linear = nn.Linear(in_channels, out_channels)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.LayerNorm(out_channels))
