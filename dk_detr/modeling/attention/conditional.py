"""Conditional attention: content and place are compared apart. B images, Q queries, S tokens, C channels, H heads.

Source: Conditional DETR (ICCV 2021).
"""

import torch
from torch import Tensor, nn

from dk_detr.modeling.attention.multi_head import attend, attention_weights, mask_of_padding, split_heads
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
        return split_heads(x, self.num_heads)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, H, Q, …), (B, H, S, …), (B, S, C) -> (B, Q, C); others: see multi_head.py."""
        value = self.heads(self.value(value))
        return self.out_proj(attend(query, key, value, attention_mask, self.dropout if self.training else 0.0, bias))


class ConditionalSelf(_Conditional):
    """Queries talk among themselves; content and place, projected apart, are added."""

    def forward(
        self, content: Tensor, position: QueryPosition, attention_mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); attention_mask (Q, Q) or (B, Q, Q), bias: see multi_head.py."""
        query = self.heads(self.q_content(content) + self.q_position(position.self_attention))
        key = self.heads(self.k_content(content) + self.k_position(position.self_attention))
        return self.attend(query, key, content, attention_mask, bias)


class ConditionalCross(_Conditional):
    """Queries look at all tokens; in every head content stands beside place, so that their products are added."""

    def forward(self, content: Tensor, position: QueryPosition, reference: Tensor | None, memory: Memory) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); of the reference it knows by the position."""
        query, key = self.compared(content, position, memory)
        return self.attend(query, key, memory.tokens, mask_of_padding(memory.padding))

    def compared(self, content: Tensor, position: QueryPosition, memory: Memory) -> tuple[Tensor, Tensor]:
        """(B, H, Q, 2C/H) and (B, H, S, 2C/H), what is compared."""
        assert memory.position is not None  # what an encoder gives
        k_position = self.k_position(memory.position)
        query, key = self.contents(content, position, self.k_content(memory.tokens), k_position)
        query = torch.cat([self.heads(query), self.heads(self.q_position(position.cross_attention))], dim=-1)
        key = torch.cat([self.heads(key), self.heads(k_position.expand_as(memory.tokens))], dim=-1)
        return query, key

    def weights(self, content: Tensor, position: QueryPosition, memory: Memory) -> Tensor:
        """(B, H, Q, S) how much each query looks at each token; the sum over S is 1."""
        return attention_weights(*self.compared(content, position, memory), mask_of_padding(memory.padding))

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

    def contents(
        self, content: Tensor, position: QueryPosition, k_content: Tensor, k_position: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `ConditionalCross`."""
        return self.q_content(content) + self.q_own(position.self_attention), k_content + k_position


def _linear(channels: int) -> nn.Linear:
    layer = nn.Linear(channels, channels)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
