"""Encoder and decoder: the two loops of every DETR. B images, S tokens, Q queries, C channels, L levels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from dk_detr.layers import MLP, Dropout, sine_position_of_cells
from dk_detr.modeling.positions import Positions, QueryPosition
from dk_detr.modeling.refinement import Refinement, boxes_at
from dk_detr.structures import FeaturePyramid, Memory, QuerySet, Trace


class FeedForward(nn.Module):
    """Two linear layers with an activation between, added to the input and normalised after (post-norm).

    Args:
        activation: "relu", or "prelu", whose slope below zero is learned.
    """

    def __init__(self, channels: int, hidden_channels: int, dropout: float, activation: str = "relu") -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden_channels)
        self.linear2 = nn.Linear(hidden_channels, channels)
        self.norm = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)
        self.prelu = nn.PReLU() if activation == "prelu" else None
        for layer in (self.linear1, self.linear2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(…, C) -> (…, C)."""
        # As rows: torch makes copies to differentiate what is done in place to an output of more dimensions, a view.
        rows = self.linear1(x.flatten(0, -2))
        rows = self.dropout(self.prelu(rows)) if self.prelu else self.dropout.after_relu_(rows)
        return self.norm(x + self.dropout(self.linear2(rows)).view_as(x))


class EncoderLayer(nn.Module):
    """Tokens look at tokens.

    Args:
        attention: one of modeling/attention for tokens.
    """

    def __init__(self, attention: nn.Module, ffn: FeedForward, channels: int, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(channels)
        self.dropout = Dropout(dropout)
        self.ffn = ffn

    def forward(self, tokens: Tensor, position: Tensor, memory: Memory) -> Tensor:
        """(B, S, C) -> (B, S, C); `memory` gives the layout of the tokens."""
        seen = self.attention(tokens, position, memory)
        return self.ffn(self.norm(tokens + self.dropout(seen)))


class Encoder(nn.Module):
    """All levels of the pyramid, as one sequence, exchange what they see.

    Args:
        layers: at least none. num_levels: levels that have an embedding of their own; 0 for none. channels: C.
        temperature, first: of the sine codes of cells, see `sine_position_of_cells`.
        scale: (B, S, C) tokens -> (B, S, C), which their codes are multiplied by in each layer; None for 1.
    """

    def __init__(
        self,
        layers: list[EncoderLayer],
        num_levels: int,
        channels: int,
        temperature: float = 10000.0,
        first: float = 0.5,
        scale: MLP | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.level_embed = nn.Parameter(torch.randn(num_levels, channels)) if num_levels else None
        if not layers and not num_levels:
            self.register_load_state_dict_pre_hook(_drop_level_embed)
        self.sine = partial(sine_position_of_cells, temperature=temperature, first=first)
        self.scale = scale

    def forward(self, pyramid: FeaturePyramid) -> Memory:
        """Feature maps -> encoded tokens with their layout."""
        memory = Memory.from_pyramid(pyramid)
        tokens, position = memory.tokens, self._position(memory)
        for layer in self.layers:
            tokens = layer(tokens, position if self.scale is None else position * self.scale(tokens), memory)
        return replace(memory, tokens=tokens, position=position)

    def _position(self, memory: Memory) -> Tensor:
        codes, nothing = [], memory.tokens.new_zeros(memory.tokens.shape[-1])
        for level, shape in enumerate(memory.shapes):
            valid = None if memory.valid is None else memory.valid[:, level]
            codes.append(self.sine(shape, valid, nothing if self.level_embed is None else self.level_embed[level]))
        return torch.cat(codes, dim=1).to(memory.tokens.dtype)


def _drop_level_embed(encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Encoders without a layer had one once, which nobody read: their weights fit."""
    state.pop(f"{prefix}level_embed", None)


class DecoderLayer(nn.Module):
    """Queries talk among themselves, then look at the memory.

    Args:
        self_attention, cross_attention: of modeling/attention.
    """

    def __init__(
        self, self_attention: nn.Module, cross_attention: nn.Module, ffn: FeedForward, channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = ffn
        self.dropout = Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: QueryPosition,
        reference: Tensor | None,
        memory: Memory,
        blocked: Tensor | None,
    ) -> Tensor:
        """(B, Q, C) content, (B, Q, 2 or 4) reference, (Q, Q) or (B, Q, Q) blocked -> (B, Q, C)."""
        content = self.norm1(content + self.dropout(self.self_attention(content, position, blocked)))
        seen = self.cross_attention(content, position, reference, memory)
        return self.ffn(self.norm2(content + self.dropout(seen)))


class Decoder(nn.Module):
    """The loop over query groups: look, say where the boxes are, go on from there.

    Args:
        layers: D of them. box_heads: one for each layer, or a single one for all.
        positions: what queries are told about their places. refinement: where the next layer starts.
        norm: of what a layer says, before heads; not of what goes on to the next layer.
    """

    def __init__(
        self,
        layers: list[DecoderLayer],
        box_heads: Sequence[nn.Module],
        positions: Positions,
        refinement: Refinement,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.box_heads = nn.ModuleList(box_heads)
        self.positions, self.refinement = positions, refinement
        self.norm = norm or nn.Identity()

    def forward(self, queries: QuerySet, memory: Memory) -> Trace:
        """Send the groups through the layers; see `QuerySet` for who sees whom and who follows whom."""
        content, given, blocked = queries.content, queries.position, queries.blocked()
        reference = queries.reference
        start = self.refinement.start(reference)
        hidden, boxes = [], []
        for number, layer in enumerate(self.layers):
            position = self.positions(given, content, reference, number)
            content = layer(content, position, reference, memory, blocked)
            head = self.box_heads[number % len(self.box_heads)]
            hidden.append(self.norm(content))
            boxes.append(boxes_at(start, head(hidden[-1])))
            reference, start = self.refinement.go_on(queries, reference, boxes[-1], partial(head, content))
        return Trace(torch.stack(hidden), torch.stack(boxes), queries)
