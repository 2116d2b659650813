"""From a config to encoder, queries and decoder."""

from collections.abc import Callable, Mapping
from functools import partial

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from torch import nn

from dk_detr.layers import MLP
from dk_detr.modeling import (
    POSITIONS,
    QUERIES,
    REFINEMENTS,
    Anchors,
    ChannelMapper,
    ConditionalCross,
    ConditionalSelf,
    Decoder,
    DecoderLayer,
    DeformableCross,
    DeformableTokens,
    DenseCross,
    DenseSelf,
    DenseTokens,
    Encoder,
    EncoderLayer,
    FeedForward,
    FirstConditionalCross,
    Learned,
    Proposals,
    box_heads,
)
from dk_detr.utils import choose, require


def build_neck(detr: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> ChannelMapper:
    """What brings the maps of a backbone to MODEL.DETR.CHANNELS."""
    require("MODEL.DETR.NECK_NORM", detr.NECK_NORM, ("GN", "none"))
    return ChannelMapper(input_shape, detr.IN_FEATURES, detr.CHANNELS, detr.NUM_EXTRA_LEVELS, detr.NECK_NORM)


def build_encoder(detr: CfgNode, num_levels: int) -> Encoder:
    """The encoder of MODEL.DETR."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "Deformable": partial(DeformableTokens, *_deformable(detr, num_levels)),
        "Dense": partial(DenseTokens, detr.CHANNELS, detr.NUM_HEADS, detr.DROPOUT),
    }
    attention = choose(kinds, "MODEL.DETR.ENCODER_ATTENTION", detr.ENCODER_ATTENTION)
    layers = [
        EncoderLayer(attention(), _feed_forward(detr), detr.CHANNELS, detr.DROPOUT) for _ in range(detr.ENCODER_LAYERS)
    ]
    require("MODEL.DETR.ENCODER_POSITION", detr.ENCODER_POSITION, ("Sine", "ScaledSine"))
    scaled = detr.ENCODER_POSITION == "ScaledSine"
    scale = MLP(detr.CHANNELS, detr.CHANNELS, detr.CHANNELS, 2, "xavier") if scaled else None
    embedded = _embedded_levels(detr, num_levels)
    return Encoder(layers, embedded, detr.CHANNELS, detr.SINE.TEMPERATURE, detr.SINE.FIRST_CELL, scale)


def _embedded_levels(detr: CfgNode, num_levels: int) -> int:
    """How many levels have an embedding. It is a part of the positions of tokens: where nobody reads these, it would
    never learn, and DDP would wait for its gradient."""
    read = detr.ENCODER_LAYERS > 0 or detr.DECODER_ATTENTION != "Deformable"
    return num_levels if detr.ENCODER_ATTENTION == "Deformable" and read else 0


def build_queries(cfg: CfgNode, num_words: int) -> Proposals | Learned | Anchors:
    """What makes the detection queries, those of MODEL.DETR.QUERIES, in a detector that is trained for K words."""
    require("MODEL.DETR.FIRST_STAGE", cfg.MODEL.DETR.FIRST_STAGE, ("Objects", "Words"))
    return choose(QUERIES, "MODEL.DETR.QUERIES", cfg.MODEL.DETR.QUERIES)(cfg, num_words)


def build_decoder(detr: CfgNode, num_levels: int, reference_width: int) -> Decoder:
    """The decoder of MODEL.DETR, for queries that start from points (2), boxes (4), or neither (0)."""
    if detr.DECODER_LAYERS < 1:
        raise ValueError(f"MODEL.DETR.DECODER_LAYERS must be at least 1, got {detr.DECODER_LAYERS}.")
    require("MODEL.DETR.DECODER_NORM", detr.DECODER_NORM, ("none", "LN"))
    refinement = choose(REFINEMENTS, "MODEL.DETR.REFINEMENT", detr.REFINEMENT)()
    return Decoder(
        [_decoder_layer(detr, num_levels, number) for number in range(detr.DECODER_LAYERS)],
        box_heads(detr.CHANNELS, num_prediction_heads(detr), refinement.widths(reference_width, detr.DECODER_LAYERS)),
        choose(POSITIONS, "MODEL.DETR.POSITION", detr.POSITION)(detr.CHANNELS),
        refinement,
        nn.LayerNorm(detr.CHANNELS) if detr.DECODER_NORM == "LN" else None,
    )


def num_prediction_heads(detr: CfgNode) -> int:
    """How many box heads and class projections the decoder layers have among them."""
    return choose({"PerLayer": detr.DECODER_LAYERS, "Shared": 1}, "MODEL.DETR.HEADS", detr.HEADS)


def _decoder_layer(detr: CfgNode, num_levels: int, number: int) -> DecoderLayer:
    dense = (detr.CHANNELS, detr.NUM_HEADS, detr.DROPOUT)
    conditional = ConditionalCross if number else FirstConditionalCross
    kinds: dict[str, tuple[Callable[..., nn.Module], Callable[[], nn.Module]]] = {
        "Deformable": (DenseSelf, partial(DeformableCross, *_deformable(detr, num_levels))),
        "Dense": (DenseSelf, partial(DenseCross, *dense)),
        "Conditional": (ConditionalSelf, partial(conditional, *dense)),
    }
    of_queries, of_memory = choose(kinds, "MODEL.DETR.DECODER_ATTENTION", detr.DECODER_ATTENTION)
    return DecoderLayer(of_queries(*dense), of_memory(), _feed_forward(detr), detr.CHANNELS, detr.DROPOUT)


def _deformable(detr: CfgNode, num_levels: int) -> tuple[int, int, int, int, str]:
    return detr.CHANNELS, detr.NUM_HEADS, num_levels, detr.NUM_POINTS, detr.ATTENTION_BACKEND


def _feed_forward(detr: CfgNode) -> FeedForward:
    require("MODEL.DETR.ACTIVATION", detr.ACTIVATION, ("relu", "prelu"))
    return FeedForward(detr.CHANNELS, detr.FFN_CHANNELS, detr.DROPOUT, detr.ACTIVATION)
