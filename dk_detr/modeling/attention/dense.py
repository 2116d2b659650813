"""Dense attention: everybody looks at everybody. B images, S tokens, Q queries, C channels.

Source: DETR (ECCV 2020).
"""

from torch import Tensor, nn

from dk_detr.modeling.positions import QueryPosition
from dk_detr.structures import Memory


class _Dense(nn.MultiheadAttention):
    def __init__(self, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__(channels, num_heads, dropout=dropout, batch_first=True)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """(B, Q, C), (B, S, C), (B, S, C) -> (B, Q, C); `blocked` (Q, S) or (B, Q, S), `padding` (B, S) of keys."""
        if blocked is not None and blocked.ndim == 3:
            blocked = blocked.repeat_interleave(self.num_heads, dim=0)
        out, _ = super().forward(query, key, value, attn_mask=blocked, key_padding_mask=padding, need_weights=False)
        return out


class DenseTokens(_Dense):
    """Tokens look at all tokens."""

    def forward(self, tokens: Tensor, position: Tensor, memory: Memory) -> Tensor:  # type: ignore[override]
        """(B, S, C) tokens and their positions -> (B, S, C); `memory` tells padding."""
        at = tokens + position
        return self.attend(at, at, tokens, padding=memory.padding)


class DenseSelf(_Dense):
    """Queries talk among themselves."""

    def forward(  # type: ignore[override]
        self, content: Tensor, position: QueryPosition, blocked: Tensor | None
    ) -> Tensor:
        """(B, Q, C) content, (Q, Q) or (B, Q, Q) blocked -> (B, Q, C)."""
        at = content + position.own
        return self.attend(at, at, content, blocked)


class DenseCross(_Dense):
    """Queries look at all tokens."""

    def forward(  # type: ignore[override]
        self, content: Tensor, position: QueryPosition, reference: Tensor | None, memory: Memory
    ) -> Tensor:
        """(B, Q, C) content -> (B, Q, C); the reference says nothing to it."""
        assert memory.position is not None  # what an encoder gives
        keys = memory.tokens + memory.position
        return self.attend(content + position.seen, keys, memory.tokens, padding=memory.padding)
