"""Heads: what kinds of dense attention share. B images, Q queries, S tokens, C channels, H heads."""

from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, Q, C) -> (B, H, Q, C/H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, dropout: float) -> Tensor:
    """(B, H, Q, …), (B, H, S, …) and (B, H, S, C/H) -> (B, Q, C).

    Args:
        hidden: bool, True where the row's query must not see the column's token: (Q, S) or (B, Q, S), or (B, 1, S).
            One for all heads: it is not copied for each.
    """
    seen = None if hidden is None else ~(hidden if hidden.ndim == 2 else hidden[:, None])
    out = F.scaled_dot_product_attention(query, key, value, seen, dropout)
    return out.transpose(1, 2).flatten(-2)


def hidden_tokens(padding: Tensor | None) -> Tensor | None:
    """(B, S) True in the padding -> (B, 1, S), the same for all queries."""
    return None if padding is None else padding[:, None]
