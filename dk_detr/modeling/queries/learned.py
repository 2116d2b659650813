"""Learned: detection queries that are parameters, the same for every image. B images, Q queries, C channels."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.modeling.queries.first_stage import FirstStage
from dk_detr.structures import Memory, QueryGroup
from dk_detr.structures.queries import DETECT


class Learned(nn.Module):
    """Every query learns what it looks for, and the point from which it looks: a one-stage DETR.

    Args:
        channels: C. num_queries: Q.

    Source: Deformable DETR (ICLR 2021), which draws content and position from N(0, 1).
    """

    reference_width = 2  # of points (x, y)

    @configurable
    def __init__(self, channels: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.content = nn.Embedding(num_queries, channels)
        self.position = nn.Embedding(num_queries, channels)
        self.reference = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        return {"channels": detr.CHANNELS, "num_queries": detr.NUM_QUERIES}

    def forward(self, memory: Memory) -> FirstStage:
        """The same Q queries for each image; nothing is proposed, so nothing is to be supervised yet."""
        images, dtype = len(memory.tokens), memory.tokens.dtype
        content = self.content.weight.to(dtype).expand(images, -1, -1)
        position = self.position.weight.to(dtype).expand(images, -1, -1)
        points = self.points().expand(images, -1, -1)
        return FirstStage(QueryGroup(DETECT, content, position, points, reads=(DETECT,), steered_by=DETECT))

    def points(self) -> Tensor:
        """(Q, 2) reference points (x, y) in [0, 1] of the image, with gradient, in full precision."""
        with torch.autocast(self.position.weight.device.type, enabled=False):
            return self.reference(self.position.weight).float().sigmoid()
