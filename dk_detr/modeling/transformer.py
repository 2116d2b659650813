"""Encoder and decoder: the two loops of every deformable DETR. B images, S tokens, Q queries, C channels, L levels."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from dk_detr.layers import Dropout, MSDeformAttn, sine_position_of_cells
from dk_detr.modeling.refinement import Refinement, boxes_at
from dk_detr.structures import FeaturePyramid, Memory, QuerySet, Trace


class FeedForward(nn.Module):
    """Two linear layers with ReLU, added to the input and normalised after (post-norm)."""

    def __init__(self, channels: int, hidden_channels: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        # As rows: torch makes copies to differentiate what is done in place to an output of more dimensions, a view.
        rows = self.linear2(self.dropout.after_relu_(self.linear1(x.flatten(0, -2))))
        return self.norm(x + self.dropout(rows).view_as(x))


class EncoderLayer(nn.Module):
    """Tokens look at tokens of all levels near their own place."""

    def __init__(self, attention: MSDeformAttn, channels: int, ffn_channels: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)
        self.ffn = FeedForward(channels, ffn_channels, dropout)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, memory: Memory) -> Tensor:
        """(B, S, C) -> (B, S, C); `memory` gives the layout of the tokens."""
        seen = self.attention(
            tokens + position, reference, tokens, memory.shapes, memory.padding, memory.valid_ratios
        )
        return self.ffn(self.norm(tokens + self.dropout(seen)))


class Encoder(nn.Module):
    """Deformable encoder: all levels of the pyramid, as one sequence, exchange what they see.

    Args:
        layers: at least none. num_levels: L. channels: C.
    """

    def __init__(self, layers: list[EncoderLayer], num_levels: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level_embed = nn.Parameter(torch.randn(num_levels, channels))

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """Feature maps -> encoded tokens with their layout."""
        memory = Memory.from_pyramid(pyramid)
        tokens, position = memory.tokens, self._position(memory)
        reference = memory.centers.expand(len(tokens), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, position, reference, memory)
        return replace(memory, tokens=tokens)

    def _position(self, memory: Memory) -> Tensor:
        codes = []
        for level, shape in enumerate(memory.shapes):
            valid = None if memory.valid is None else memory.valid[:, level]
            codes.append(sine_position_of_cells(shape, valid, self.level_embed[level]))
        return torch.cat(codes, dim=1).to(memory.tokens.dtype)


class DecoderLayer(nn.Module):
    """Queries talk among themselves, then look at the memory."""

    def __init__(
        self, cross_attention: MSDeformAttn, channels: int, num_heads: int, ffn_channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = nn.MultiheadAttention(channels, num_heads, dropout=dropout, batch_first=True)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = FeedForward(channels, ffn_channels, dropout)
        self.dropout = Dropout(dropout)
        self.num_heads = num_heads

    def forward(
        self, content: Tensor, position: Tensor, reference: Tensor, memory: Memory, blocked: Tensor | None
    ) -> Tensor:
        """(B, Q, C) content and position, (B, Q, 2 or 4) reference, (Q, Q) or (B, Q, Q) blocked -> (B, Q, C)."""
        if blocked is not None and blocked.ndim == 3:
            blocked = blocked.repeat_interleave(self.num_heads, dim=0)
        q = content + position
        said, _ = self.self_attention(q, q, content, attn_mask=blocked, need_weights=False)
        content = self.norm1(content + self.dropout(said))
        seen = self.cross_attention(
            content + position, reference, memory.tokens, memory.shapes, memory.padding, memory.valid_ratios
        )
        return self.ffn(self.norm2(content + self.dropout(seen)))


class Decoder(nn.Module):
    """The loop over query groups: look, say where the boxes are, go on from there.

    Args:
        layers: D of them. box_heads: one for each layer, or a single one for all.
        refinement: which references the next layer starts from.
    """

    def __init__(self, layers: list[DecoderLayer], box_heads: Sequence[nn.Module], refinement: Refinement) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.box_heads = nn.ModuleList(box_heads)
        self.refinement = refinement

    def forward(self, queries: QuerySet, memory: Memory) -> Trace:
        """Send the groups through the layers; see `QuerySet` for who sees whom and who follows whom."""
        content, position, reference, blocked = queries.content, queries.position, queries.reference, queries.blocked()
        if position is None or reference is None:
            raise ValueError("This decoder needs queries with a position and a reference.")
        hidden, boxes = [], []
        for number, layer in enumerate(self.layers):
            content = layer(content, position, reference, memory, blocked)
            head = self.box_heads[number % len(self.box_heads)]
            hidden.append(content)
            boxes.append(boxes_at(reference, head(content)))
            reference = self.refinement.next_reference(queries, boxes[-1], reference)
        return Trace(torch.stack(hidden), torch.stack(boxes), queries)
