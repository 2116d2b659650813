"""Content: what detection queries know before they have looked. B images, Q queries, C channels."""

import torch
from torch import Tensor, nn

from dk_detr.utils import require

CONTENTS = ("Learned", "Common", "Zero")
"""Names in MODEL.DETR.CONTENT: a learned vector for each query, one for all of them, or nothing."""


class Content(nn.Module):
    """Learned content starts from N(0, 1), as in Deformable DETR.

    Args:
        kind: one of `CONTENTS`. num_queries: Q. channels: C.
    """

    weight: nn.Parameter | None

    def __init__(self, kind: str, num_queries: int, channels: int) -> None:
        super().__init__()
        require("MODEL.DETR.CONTENT", kind, CONTENTS)
        self.num_queries, self.channels = num_queries, channels
        rows = {"Learned": num_queries, "Common": 1, "Zero": 0}[kind]
        self.register_parameter("weight", nn.Parameter(torch.randn(rows, channels)) if rows else None)

    def forward(self, like: Tensor, number: int | None = None) -> Tensor:
        """(B, number, C) of the first `number` queries, all by default, in the precision and place of `like` (B, …)."""
        number = self.num_queries if number is None else number
        if self.weight is None:
            return like.new_zeros(like.shape[0], number, self.channels)
        return self.weight[:number].to(like.dtype).expand(like.shape[0], number, -1)
