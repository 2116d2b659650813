"""Deformable attention in encoder and decoder: a few places around a reference. B images, S tokens, Q queries.

Source: Deformable DETR (ICLR 2021).
"""

from torch import Tensor

from dk_detr.layers import MSDeformAttn
from dk_detr.modeling.positions import QueryPosition, require_part
from dk_detr.structures import Memory


class DeformableTokens(MSDeformAttn):
    """Tokens look at tokens of all levels near their own place."""

    def forward(self, tokens: Tensor, position: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        """(B, S, C) tokens and their positions -> (B, S, C); `memory` gives their layout."""
        centers = memory.centers.expand(tokens.shape[0], -1, -1)
        return super().forward(tokens + position, centers, tokens, memory.shapes, memory.padding, memory.valid_ratios)


class DeformableCross(MSDeformAttn):
    """Queries look at tokens near their reference."""

    def forward(  # type: ignore[override]
        self, content: Tensor, position: QueryPosition, reference: Tensor | None, memory: Memory
    ) -> Tensor:
        """(B, Q, C) content, (B, Q, 2 or 4) reference -> (B, Q, C)."""
        reference = require_part(reference, "a reference")
        query = content + position.cross_attention
        return super().forward(
            query, reference, memory.tokens, memory.shapes, memory.padding, memory.valid_ratios
        )
