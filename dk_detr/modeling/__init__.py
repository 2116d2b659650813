"""Modeling: the detector in parts. Nothing here knows that it is being taught."""

from dk_detr.modeling.acceleration import accelerate
from dk_detr.modeling.attention import (
    ConditionalCross,
    ConditionalSelf,
    DeformableCross,
    DeformableTokens,
    DenseCross,
    DenseSelf,
    DenseTokens,
    FirstConditionalCross,
)
from dk_detr.modeling.classifiers import (
    CLASSIFIERS,
    Classifier,
    CosineText,
    CosineTextBackground,
    CosineTextEnsemble,
    CosineTextObjectness,
    Linear,
    LinearBackground,
    ensemble,
    with_background,
    with_objectness,
    without_background,
)
from dk_detr.modeling.clip_resnet import build_clip_resnet_backbone
from dk_detr.modeling.companions import COMPANIONS, ContrastiveDenoising, Denoising, Noisy
from dk_detr.modeling.neck import ChannelMapper
from dk_detr.modeling.positions import POSITIONS, Positions, QueryPosition
from dk_detr.modeling.postprocess import to_instances
from dk_detr.modeling.queries import QUERIES, Anchors, FirstStage, Learned, Mixed, Proposals
from dk_detr.modeling.refinement import REFINEMENTS, FromReference, Iterative, LookForwardTwice, Refinement, box_heads
from dk_detr.modeling.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer, FeedForward

__all__ = [
    "CLASSIFIERS", "COMPANIONS", "POSITIONS", "QUERIES", "REFINEMENTS", "Anchors", "ChannelMapper", "Classifier",
    "ConditionalCross", "ConditionalSelf", "ContrastiveDenoising", "CosineText", "CosineTextBackground",
    "CosineTextEnsemble", "CosineTextObjectness", "Decoder", "DecoderLayer", "DeformableCross", "DeformableTokens",
    "Denoising", "DenseCross", "DenseSelf", "DenseTokens", "Encoder", "EncoderLayer", "FeedForward",
    "FirstConditionalCross", "FirstStage", "FromReference", "Iterative", "Learned", "Linear", "LinearBackground",
    "LookForwardTwice", "Mixed", "Noisy", "Positions", "Proposals", "QueryPosition", "Refinement", "accelerate",
    "box_heads", "build_clip_resnet_backbone", "ensemble", "to_instances", "with_background", "with_objectness",
    "without_background",
]  # fmt: skip
