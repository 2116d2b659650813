"""Conditional attention: content and place are compared apart. B images, Q queries, S tokens, C channels, H heads.

Source: Conditional DETR (ICCV 2021).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling.positions import QueryPosition
from dk_detr.structures import Memory


class _Conditional(nn.Module):
    """Projections of content and place for query and key, one of content for the value."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.q_content, self.q_position = _linear(channels), _linear(channels)
        self.k_content, self.k_position = _linear(channels), _linear(channels)
        self.value, self.out_proj = _linear(channels), _linear(channels)

    def heads(self, x: Tensor) -> Tensor:
        """(B, …, C) -> (B, H, …, C/H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
        """(B, H, Q, …), (B, H, S, …), (B, H, S, C/H), bool that broadcasts to (B, H, Q, S) -> (B, Q, C)."""
        dropout = self.dropout if self.training else 0.0
        out = F.scaled_dot_product_attention(query, key, value, seen, dropout)
        return self.out_proj(out.transpose(1, 2).flatten(-2))


class ConditionalSelf(_Conditional):
    """Queries talk among themselves; content and place, projected apart, are added."""

    def forward(self, content: Tensor, position: QueryPosition, blocked: Tensor | None) -> Tensor:
        """(B, Q, C) content, (Q, Q) or (B, Q, Q) blocked -> (B, Q, C)."""
        query = self.heads(self.q_content(content) + self.q_position(position.own))
        key = self.heads(self.k_content(content) + self.k_position(position.own))
        if blocked is not None:
            blocked = ~blocked[None, None] if blocked.ndim == 2 else ~blocked[:, None]
        return self.attend(query, key, self.heads(self.value(content)), blocked)


class ConditionalCross(_Conditional):
    """Queries look at all tokens; in every head content stands beside place, so that their products are added."""

    def forward(self, content: Tensor, position: QueryPosition, reference: Tensor | None, memory: Memory) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); of the reference it knows by the position."""
        assert memory.position is not None  # what an encoder gives
        k_position = self.k_position(memory.position)
        query, key = self.contents(content, position, self.k_content(memory.tokens), k_position)
        query = torch.cat([self.heads(query), self.heads(self.q_position(position.seen))], dim=-1)
        key = torch.cat([self.heads(key), self.heads(k_position.expand_as(memory.tokens))], dim=-1)
        seen = None if memory.padding is None else ~memory.padding[:, None, None]
        return self.attend(query, key, self.heads(self.value(memory.tokens)), seen)

    def contents(
        self, content: Tensor, position: QueryPosition, k_content: Tensor, k_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, Q, C) and (B, S, C) that stand for the content of queries and keys."""
        return self.q_content(content), k_content


class FirstConditionalCross(ConditionalCross):
    """That of the first layer, where queries know nothing yet: their place is looked for in the contents, too."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__(channels, num_heads, dropout)
        self.q_own = _linear(channels)

    def contents(self, *given: Any) -> tuple[Tensor, Tensor]:
        """See `ConditionalCross`."""
        content, position, k_content, k_position = given
        return self.q_content(content) + self.q_own(position.own), k_content + k_position


def _linear(channels: int) -> nn.Linear:
    layer = nn.Linear(channels, channels)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
