"""Dense attention: everybody looks at everybody. B images, S tokens, Q queries, C channels.

Source: DETR (ECCV 2020).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling.attention.multi_head import attend, attention_weights, mask_of_padding, split_heads
from dk_detr.modeling.positions import QueryPosition
from dk_detr.structures import Memory


class DenseAttention(nn.MultiheadAttention):
    """PyTorch's parameters; its own forward would copy masks of images for each head, and keep them for backward."""

    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__(channels, num_heads, dropout=dropout, batch_first=True)
        nn.init.xavier_uniform_(self.out_proj.weight)  # as the rest of it, in all releases

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C), (B, S, C), (B, S, C) -> (B, Q, C); others: see multi_head.py."""
        parts = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        q, k, v = (split_heads(F.linear(*part), self.num_heads) for part in parts)
        return self.out_proj(attend(q, k, v, attention_mask, self.dropout if self.training else 0.0, bias))


class DenseTokens(DenseAttention):
    """Tokens look at all tokens."""

    def forward(self, tokens: Tensor, position: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        """(B, S, C) tokens and their positions -> (B, S, C); `memory` tells padding."""
        at = tokens + position
        return self.attend(at, at, tokens, mask_of_padding(memory.padding))


class DenseSelf(DenseAttention):
    """Queries talk among themselves."""

    def forward(  # type: ignore[override]
        self, content: Tensor, position: QueryPosition, attention_mask: Tensor | None, bias: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); attention_mask (Q, Q) or (B, Q, Q), bias: see multi_head.py."""
        at = content + position.self_attention
        return self.attend(at, at, content, attention_mask, bias)


class DenseCross(DenseAttention):
    """Queries look at all tokens."""

    def forward(  # type: ignore[override]
        self, content: Tensor, position: QueryPosition, reference: Tensor | None, memory: Memory
    ) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); the reference says nothing to it."""
        query, key = self.compared(content, position, memory)
        return self.attend(query, key, memory.tokens, mask_of_padding(memory.padding))

    def compared(self, content: Tensor, position: QueryPosition, memory: Memory) -> tuple[Tensor, Tensor]:
        """(B, Q, C) and (B, S, C), what is compared, before it is projected."""
        assert memory.position is not None  # what an encoder gives
        return content + position.cross_attention, memory.tokens + memory.position

    def weights(self, content: Tensor, position: QueryPosition, memory: Memory) -> Tensor:
        """(B, H, Q, S) how much each query looks at each token; the sum over S is 1."""
        parts = zip(self.compared(content, position, memory), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3))
        query, key = (split_heads(F.linear(*part), self.num_heads) for part in parts)
        return attention_weights(query, key, mask_of_padding(memory.padding))
