"""WholeImage: detection queries that begin as the whole image. B images, Q queries, C channels."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from dk_detr.modeling.queries.content import Content
from dk_detr.modeling.queries.initial import InitialQueries, Queries
from dk_detr.structures import DETECTION, Memory, QueryGroup

WHOLE = (0.5, 0.5, 1.0, 1.0)  # cxcywh


class WholeImage(Queries):
    """Queries differ in what they know, a learned content, which is normalised; all look at the whole image first.

    Args:
        channels: C. num_queries: Q.

    Source: AdaMixer (CVPR 2022), which found learned boxes no better.
    """

    reference_width, positions, contents = 4, "never", False

    @configurable
    def __init__(self, channels: int, num_queries: int) -> None:
        super().__init__()
        self.num_queries = num_queries
        self.content = Content("Learned", num_queries, channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        return {"channels": cfg.MODEL.DETR.CHANNELS, "num_queries": cfg.MODEL.DETR.NUM_QUERIES}

    def forward(self, memory: Memory) -> InitialQueries:
        """The same Q queries for each image."""
        content = self.content(memory.tokens)
        boxes = torch.tensor(WHOLE, device=content.device).expand(*content.shape[:2], 4)
        content = F.layer_norm(content, content.shape[-1:])
        return InitialQueries(QueryGroup(DETECTION, content, None, boxes, (DETECTION,), DETECTION))

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> None:
        """None: the decoder derives it."""
