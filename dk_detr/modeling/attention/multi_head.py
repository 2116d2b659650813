"""What kinds of dense attention share: heads, masks and biases. B images, Q queries, S tokens, C channels, H heads."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(B, Q, C) -> (B, H, Q, C/H)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float,
    bias: Tensor | None = None,
) -> Tensor:
    """(B, H, Q, …), (B, H, S, …) and (B, H, S, C/H) -> (B, Q, C).

    Args:
        attention_mask: bool, True where the row's query must not see the column's token: (Q, S), (B, Q, S) or
            (B, 1, S). One for all heads: it is not copied for each.
        bias: (B or 1, H or 1, Q, S) added to the similarities; what is masked stays masked.
    """
    blocked = attention_mask
    if blocked is not None and blocked.ndim == 3:
        blocked = blocked[:, None]
    if bias is None:
        mask = None if blocked is None else ~blocked
    else:
        mask = bias.to(query.dtype) if blocked is None else bias.to(query.dtype).masked_fill(blocked, -torch.inf)
    out = F.scaled_dot_product_attention(query, key, value, mask, dropout)
    return out.transpose(1, 2).flatten(-2)


def attention_weights(query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(B, H, Q, …), (B, H, S, …) -> (B, H, Q, S), what `attend` weighs the values by without dropout and bias; their
    sum over S is 1. `attention_mask`: (B, 1, S), see `attend`."""
    similarity = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    if attention_mask is not None:
        similarity = similarity.masked_fill(attention_mask[:, None], -torch.inf)
    return similarity.softmax(-1)


def mask_of_padding(padding: Tensor | None) -> Tensor | None:
    """(B, S) True in the padding -> (B, 1, S), the same for all queries."""
    return None if padding is None else padding[:, None]
