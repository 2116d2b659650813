"""Learned: detection queries that are parameters, the same for every image. B images, Q queries, C channels."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import MLP
from dk_detr.modeling.attention import ATTENTIONS
from dk_detr.modeling.queries.content import Content
from dk_detr.modeling.queries.initial import InitialQueries, Queries
from dk_detr.structures import DETECTION, Memory, QueryGroup
from dk_detr.utils import choose


class Learned(Queries):
    """Every query has a learned positional code, from which its reference point is predicted: a one-stage DETR.

    Args:
        channels: C. num_queries: Q. content: see `Content`.
        point_layers: of the head that reads the point off the position: 1 is linear, 2 an MLP, 0 for no points.

    Source: DETR, without points; Conditional DETR, 2; Deformable DETR, 1. Positions start from N(0, 1).
    """

    starts_from_boxes = False

    @configurable
    def __init__(self, channels: int, num_queries: int, content: str = "Learned", point_layers: int = 1) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.reference_width = 2 if point_layers else 0
        self.content = Content(content, num_queries, channels)
        self.position = nn.Embedding(num_queries, channels)
        self.reference = _point_head(channels, point_layers)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {
            "channels": detr.CHANNELS,
            "num_queries": detr.NUM_QUERIES,
            "content": detr.CONTENT,
            "point_layers": choose(ATTENTIONS, "MODEL.DETR.DECODER_ATTENTION", detr.DECODER_ATTENTION).point_layers,
        }

    def forward(self, memory: Memory) -> InitialQueries:
        """The same Q queries for each image; nothing is proposed, so nothing is to be supervised yet."""
        images, dtype = memory.tokens.shape[0], memory.tokens.dtype
        position = self.position.weight.to(dtype).expand(images, -1, -1)
        points = self.points_of(self.position.weight)
        points = None if points is None else points.expand(images, -1, -1)
        group = QueryGroup(DETECTION, self.content(memory.tokens), position, points, (DETECTION,), DETECTION)
        return InitialQueries(group)

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor:
        """Raises ValueError: these learn where they look, and know nothing of boxes."""
        raise ValueError('Queries that start from boxes need MODEL.DETR.QUERIES "Anchors", "Proposals" or "Mixed".')

    def points_of(self, position: Tensor) -> Tensor | None:
        """See `Queries`; with gradient, in full precision."""
        if self.reference is None:
            return None
        with torch.autocast(position.device.type, enabled=False):
            return self.reference(position.float()).float().sigmoid()


class Anchors(Queries):
    """Every query learns the box from which it looks, and the decoder derives its position from that.

    Args:
        channels: C. num_queries: Q. content: see `Content`.

    Source: DAB-DETR (ICLR 2022), whose anchors start as logits from N(0, 1).
    """

    reference_width, positions = 4, "never"

    @configurable
    def __init__(self, channels: int, num_queries: int, content: str = "Zero") -> None:
        super().__init__()
        self.num_queries = num_queries
        self.content = Content(content, num_queries, channels)
        self.anchors = nn.Embedding(num_queries, 4)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {"channels": detr.CHANNELS, "num_queries": detr.NUM_QUERIES, "content": detr.CONTENT}

    def forward(self, memory: Memory) -> InitialQueries:
        """The same Q queries for each image."""
        boxes = self.anchors.weight.float().sigmoid().expand(memory.tokens.shape[0], -1, -1)
        return InitialQueries(QueryGroup(DETECTION, self.content(memory.tokens), None, boxes, (DETECTION,), DETECTION))

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> None:
        """None: see `Positions`."""


def _point_head(channels: int, num_layers: int) -> nn.Module | None:
    if num_layers == 0:
        return None
    if num_layers > 1:
        return MLP(channels, channels, 2, num_layers)
    head = nn.Linear(channels, 2)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head
