"""Encoder: tokens of all levels look at one another. B images, S tokens, C channels, L levels."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import MLP, Dropout, sine_position_of_cells
from dk_detr.modeling.attention import ATTENTIONS, AttentionSizes
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.structures import FeaturePyramid, Memory
from dk_detr.utils import choose, require


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
        layers: any number, also none. num_levels: levels that have an embedding of their own; 0 for none. channels: C.
        temperature, first: of the sine codes of cells, see `sine_position_of_cells`.
        scale: (B, S, C) tokens -> (B, S, C), which their codes are multiplied by in each layer; None for 1.
    """

    @configurable
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

    @classmethod
    def from_config(cls, cfg: CfgNode, num_levels: int) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        kinds = {name: kind.tokens for name, kind in ATTENTIONS.items() if kind.tokens}
        tokens = choose(kinds, "MODEL.DETR.ENCODER_ATTENTION", detr.ENCODER_ATTENTION)
        sizes = AttentionSizes.of(detr, num_levels)
        layers = [
            EncoderLayer(tokens(sizes), FeedForward(cfg), detr.CHANNELS, detr.DROPOUT)
            for _ in range(detr.ENCODER_LAYERS)
        ]
        require("MODEL.DETR.ENCODER_POSITION", detr.ENCODER_POSITION, ("Sine", "ScaledSine"))
        scaled = detr.ENCODER_POSITION == "ScaledSine"
        return {
            "layers": layers,
            "num_levels": _embedded_levels(detr, num_levels),
            "channels": detr.CHANNELS,
            "temperature": detr.SINE.TEMPERATURE,
            "first": detr.SINE.FIRST_CELL,
            "scale": MLP(detr.CHANNELS, detr.CHANNELS, detr.CHANNELS, 2, "xavier") if scaled else None,
        }

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
            valid_size = None if memory.valid_size is None else memory.valid_size[:, level]
            embedding = nothing if self.level_embed is None else self.level_embed[level]
            codes.append(self.sine(shape, valid_size, embedding))
        return torch.cat(codes, dim=1).to(memory.tokens.dtype)


def _embedded_levels(detr: CfgNode, num_levels: int) -> int:
    """How many levels have an embedding. It is a part of the positions of tokens: where nobody reads these, it would
    never learn, and DDP would wait for its gradient."""
    many = ATTENTIONS[detr.ENCODER_ATTENTION].many_levels
    looks_at_positions = detr.DECODER == "DETR" and not ATTENTIONS[detr.DECODER_ATTENTION].many_levels
    read = detr.ENCODER_LAYERS > 0 or looks_at_positions
    return num_levels if many and read else 0


def _drop_level_embed(encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Older checkpoints of encoders without a layer hold one that nothing read."""
    state.pop(f"{prefix}level_embed", None)
