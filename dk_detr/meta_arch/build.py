"""From a config to the parts of a detector. Bad combinations are refused here, naming the keys."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.backbone import Backbone

from dk_detr.criterion import CLASS_LOSSES, ClassLoss, CrossEntropy, Focal, HungarianMatcher, SetCriterion
from dk_detr.language import vocabularies_from_config
from dk_detr.layers import MSDeformAttn
from dk_detr.meta_arch.build_branch import build_branch
from dk_detr.modeling import (
    CLASSIFIERS,
    QUERIES,
    REFINEMENTS,
    ChannelMapper,
    CosineText,
    CosineTextObjectness,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    Learned,
    Linear,
    Proposals,
    accelerate,
    box_heads,
)
from dk_detr.structures import choose


def parts_from_config(cfg: CfgNode, backbone: Backbone) -> dict[str, Any]:
    """The arguments of `DETR`."""
    detr = cfg.MODEL.DETR
    train_vocabulary, vocabulary = vocabularies_from_config(cfg)
    neck = ChannelMapper(backbone.output_shape(), detr.IN_FEATURES, detr.CHANNELS, detr.NUM_EXTRA_LEVELS)
    queries = build_queries(cfg)
    _refuse_what_cannot_be_learned(detr)
    parts = {
        "backbone": backbone,
        "neck": neck,
        "encoder": build_encoder(detr, neck.num_levels),
        "queries": queries,
        "decoder": build_decoder(detr, neck.num_levels, queries.reference_width),
        "classifier": build_classifier(cfg, vocabulary.width),
        "criterion": build_criterion(detr, build_class_loss(detr)),
        "proposal_criterion": build_criterion(detr, Focal()),
        "branch": build_branch(cfg, vocabulary.width) if cfg.MODEL.KD.TERMS else None,
        "train_vocabulary": train_vocabulary,
        "vocabulary": vocabulary,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "num_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }
    accelerate(parts, detr.CHECKPOINTED, detr.COMPILED)
    return parts


def build_queries(cfg: CfgNode) -> Proposals | Learned:
    """The first stage, which makes the detection queries of MODEL.DETR.QUERIES."""
    return choose(QUERIES, "MODEL.DETR.QUERIES", cfg.MODEL.DETR.QUERIES)(cfg)


def build_classifier(cfg: CfgNode, width: int) -> CosineText | Linear:
    """The classifier of MODEL.DETR.CLASSIFIER, for words of this width."""
    part = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", cfg.MODEL.DETR.CLASSIFIER.NAME)
    return part(cfg, width, num_prediction_heads(cfg.MODEL.DETR))


def num_prediction_heads(detr: CfgNode) -> int:
    """How many box heads and class projections the decoder layers have among them."""
    return choose({"PerLayer": detr.DECODER_LAYERS, "Shared": 1}, "MODEL.DETR.HEADS", detr.HEADS)


def build_encoder(detr: CfgNode, num_levels: int) -> Encoder:
    """The deformable encoder of MODEL.DETR."""
    layers = [
        EncoderLayer(_attention(detr, num_levels), detr.CHANNELS, detr.FFN_CHANNELS, detr.DROPOUT)
        for _ in range(detr.ENCODER_LAYERS)
    ]
    return Encoder(layers, num_levels, detr.CHANNELS)


def build_decoder(detr: CfgNode, num_levels: int, reference_width: int) -> Decoder:
    """The decoder of MODEL.DETR, for queries that start from points (2) or boxes (4)."""
    if detr.DECODER_LAYERS < 1:
        raise ValueError(f"MODEL.DETR.DECODER_LAYERS must be at least 1, got {detr.DECODER_LAYERS}.")
    layers = [
        DecoderLayer(_attention(detr, num_levels), detr.CHANNELS, detr.NUM_HEADS, detr.FFN_CHANNELS, detr.DROPOUT)
        for _ in range(detr.DECODER_LAYERS)
    ]
    refinement = choose(REFINEMENTS, "MODEL.DETR.REFINEMENT", detr.REFINEMENT)()
    widths = refinement.widths(reference_width, detr.DECODER_LAYERS)
    return Decoder(layers, box_heads(detr.CHANNELS, num_prediction_heads(detr), widths), refinement)


def _attention(detr: CfgNode, num_levels: int) -> MSDeformAttn:
    return MSDeformAttn(detr.CHANNELS, detr.NUM_HEADS, num_levels, detr.NUM_POINTS, detr.ATTENTION_BACKEND)


def build_class_loss(detr: CfgNode) -> ClassLoss:
    """What MODEL.DETR.LOSS.CLASS names."""
    part = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", detr.LOSS.CLASS)
    return part(detr.LOSS.NO_OBJECT_WEIGHT) if part is CrossEntropy else part()


def build_criterion(detr: CfgNode, class_loss: ClassLoss) -> SetCriterion:
    """Matching and detection losses of MODEL.DETR."""
    cost, loss = detr.MATCHER, detr.LOSS
    matcher = HungarianMatcher(cost.CLASS_COST, cost.L1_COST, cost.GIOU_COST, class_loss)
    return SetCriterion(matcher, {"class": loss.CLASS_WEIGHT, "l1": loss.L1_WEIGHT, "giou": loss.GIOU_WEIGHT})


def _refuse_what_cannot_be_learned(detr: CfgNode) -> None:
    classifier = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", detr.CLASSIFIER.NAME)
    loss = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", detr.LOSS.CLASS)
    if classifier.activation != loss.activation:
        fitting = [name for name, other in CLASS_LOSSES.items() if other.activation == classifier.activation]
        raise ValueError(
            f'MODEL.DETR.LOSS.CLASS "{detr.LOSS.CLASS}" is not for MODEL.DETR.CLASSIFIER.NAME '
            f'"{detr.CLASSIFIER.NAME}": choose the loss "{fitting[0]}", or another classifier.'
        )
    if classifier is CosineTextObjectness and not issubclass(QUERIES[detr.QUERIES], Proposals):
        raise ValueError(
            'MODEL.DETR.CLASSIFIER.NAME "CosineTextObjectness" asks the first stage what is an object, but '
            f'MODEL.DETR.QUERIES "{detr.QUERIES}" has none. Choose "Proposals" or "Mixed".'
        )
