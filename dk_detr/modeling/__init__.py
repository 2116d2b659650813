"""Modeling: the detector in parts. Nothing here knows a loss or a training extension."""

from dk_detr.modeling.acceleration import accelerate
from dk_detr.modeling.adamixer import AdaMixer
from dk_detr.modeling.attention import (
    ATTENTIONS,
    ConditionalCross,
    ConditionalSelf,
    DeformableCross,
    DeformableTokens,
    DenseCross,
    DenseSelf,
    DenseTokens,
    FirstConditionalCross,
)
from dk_detr.modeling.box_parameterization import BOX_PARAMETERIZATIONS, BoxParameterization
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
from dk_detr.modeling.decoder import DECODERS, Decoder, DecoderLayer
from dk_detr.modeling.encoder import Encoder, EncoderLayer
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.modeling.heads import Heads, PredictionsByGroup
from dk_detr.modeling.masks import MASKS, DynamicMasks
from dk_detr.modeling.neck import ChannelMapper
from dk_detr.modeling.positions import POSITIONS, Positions, QueryPosition
from dk_detr.modeling.postprocess import to_instances
from dk_detr.modeling.quality import BoxQuality
from dk_detr.modeling.queries import (
    QUERIES,
    Anchors,
    InitialQueries,
    Learned,
    Mixed,
    Proposals,
    Queries,
    WholeImage,
)
from dk_detr.modeling.refinement import REFINEMENTS, FromReference, Iterative, LookForwardTwice, Refinement, box_heads
from dk_detr.modeling.roi_head import ROIHead
from dk_detr.modeling.timm_backbone import build_timm_backbone

__all__ = [
    "ATTENTIONS", "BOX_PARAMETERIZATIONS", "CLASSIFIERS", "DECODERS", "MASKS", "POSITIONS", "QUERIES", "REFINEMENTS",
    "AdaMixer", "Anchors", "BoxParameterization", "BoxQuality", "ChannelMapper", "Classifier", "ConditionalCross",
    "ConditionalSelf", "CosineText", "CosineTextBackground", "CosineTextEnsemble", "CosineTextObjectness", "Decoder",
    "DecoderLayer", "DeformableCross", "DeformableTokens", "DenseCross", "DenseSelf", "DenseTokens", "DynamicMasks",
    "Encoder", "EncoderLayer", "FeedForward", "FirstConditionalCross", "FromReference", "Heads", "InitialQueries",
    "Iterative", "Learned", "Linear", "LinearBackground", "LookForwardTwice", "Mixed", "Positions",
    "PredictionsByGroup", "Proposals", "Queries", "QueryPosition", "ROIHead", "Refinement", "WholeImage", "accelerate",
    "box_heads", "build_clip_resnet_backbone", "build_timm_backbone", "ensemble", "to_instances", "with_background",
    "with_objectness", "without_background",
]  # fmt: skip
