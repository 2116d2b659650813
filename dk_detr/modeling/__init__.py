"""Modeling: the detector in parts. Nothing here knows that it is being taught."""

from dk_detr.modeling.acceleration import accelerate
from dk_detr.modeling.classifiers import (
    CLASSIFIERS,
    Classifier,
    CosineText,
    CosineTextBackground,
    CosineTextEnsemble,
    CosineTextObjectness,
    Linear,
    ensemble,
    with_background,
    with_objectness,
    without_background,
)
from dk_detr.modeling.clip_resnet import build_clip_resnet_backbone
from dk_detr.modeling.neck import ChannelMapper
from dk_detr.modeling.postprocess import to_instances
from dk_detr.modeling.queries import QUERIES, FirstStage, Learned, Mixed, Proposals
from dk_detr.modeling.refinement import REFINEMENTS, FromReference, Iterative, Refinement, box_heads
from dk_detr.modeling.transformer import Decoder, DecoderLayer, Encoder, EncoderLayer

__all__ = [
    "CLASSIFIERS", "QUERIES", "REFINEMENTS", "ChannelMapper", "Classifier", "CosineText", "CosineTextBackground",
    "CosineTextEnsemble", "CosineTextObjectness", "Decoder", "DecoderLayer", "Encoder", "EncoderLayer", "FirstStage",
    "FromReference", "Iterative", "Learned", "Linear", "Mixed", "Proposals", "Refinement", "accelerate", "box_heads",
    "build_clip_resnet_backbone", "ensemble", "to_instances", "with_background", "with_objectness",
    "without_background",
]  # fmt: skip
