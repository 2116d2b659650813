"""From a config to the parts of a detector. Bad combinations are refused here, naming the keys."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.backbone import Backbone

from dk_detr.criterion import HungarianMatcher, SetCriterion
from dk_detr.distillation import (
    CLIPCrops,
    Companions,
    DistillationBranch,
    SlotSelection,
    TermSettings,
    build_terms,
)
from dk_detr.language import clip_from_config, vocabularies_from_config
from dk_detr.layers import MSDeformAttn
from dk_detr.modeling import (
    QUERIES,
    ChannelMapper,
    CosineText,
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    Proposals,
)


def parts_from_config(cfg: CfgNode, backbone: Backbone) -> dict[str, Any]:
    """The arguments of `DETR`."""
    detr = cfg.MODEL.DETR
    train_vocabulary, vocabulary = vocabularies_from_config(cfg)
    neck = ChannelMapper(backbone.output_shape(), detr.IN_FEATURES, detr.CHANNELS, detr.NUM_EXTRA_LEVELS)
    return {
        "backbone": backbone,
        "neck": neck,
        "encoder": build_encoder(detr, neck.num_levels),
        "proposals": build_queries(detr),
        "decoder": build_decoder(detr, neck.num_levels),
        "classifier": CosineText(
            detr.CHANNELS,
            vocabulary.width,
            detr.DECODER_LAYERS,
            detr.CLASSIFIER.TEMPERATURE,
            detr.CLASSIFIER.LOGIT_BIAS,
        ),
        "criterion": build_criterion(detr),
        "branch": build_branch(cfg, vocabulary.width) if cfg.MODEL.KD.TERMS else None,
        "train_vocabulary": train_vocabulary,
        "vocabulary": vocabulary,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "num_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
    }


def build_queries(detr: CfgNode) -> Proposals:
    """The first stage, which makes the detection queries of MODEL.DETR.QUERIES."""
    if detr.QUERIES not in QUERIES:
        raise ValueError(f'MODEL.DETR.QUERIES is "{detr.QUERIES}"; choose one of {", ".join(QUERIES)}.')
    return QUERIES[detr.QUERIES](detr.CHANNELS, detr.NUM_QUERIES, detr.ANCHOR_SIZE)


def build_encoder(detr: CfgNode, num_levels: int) -> Encoder:
    """The deformable encoder of MODEL.DETR."""
    layers = [
        EncoderLayer(_attention(detr, num_levels), detr.CHANNELS, detr.FFN_CHANNELS, detr.DROPOUT)
        for _ in range(detr.ENCODER_LAYERS)
    ]
    return Encoder(layers, num_levels, detr.CHANNELS)


def build_decoder(detr: CfgNode, num_levels: int) -> Decoder:
    """The decoder of MODEL.DETR."""
    if detr.DECODER_LAYERS < 1:
        raise ValueError(f"MODEL.DETR.DECODER_LAYERS must be at least 1, got {detr.DECODER_LAYERS}.")
    layers = [
        DecoderLayer(_attention(detr, num_levels), detr.CHANNELS, detr.NUM_HEADS, detr.FFN_CHANNELS, detr.DROPOUT)
        for _ in range(detr.DECODER_LAYERS)
    ]
    return Decoder(layers, detr.CHANNELS)


def _attention(detr: CfgNode, num_levels: int) -> MSDeformAttn:
    return MSDeformAttn(detr.CHANNELS, detr.NUM_HEADS, num_levels, detr.NUM_POINTS, detr.ATTENTION_BACKEND)


def build_criterion(detr: CfgNode) -> SetCriterion:
    """Matching and detection losses of MODEL.DETR."""
    cost, loss = detr.MATCHER, detr.LOSS
    matcher = HungarianMatcher(cost.CLASS_COST, cost.L1_COST, cost.GIOU_COST)
    return SetCriterion(matcher, {"class": loss.CLASS_WEIGHT, "l1": loss.L1_WEIGHT, "giou": loss.GIOU_WEIGHT})


def build_branch(cfg: CfgNode, width: int) -> DistillationBranch:
    """The distillation branch of MODEL.KD with the teacher of MODEL.TEACHER."""
    kd = cfg.MODEL.KD
    teacher = CLIPCrops(
        clip_from_config(cfg),
        cfg.MODEL.PIXEL_MEAN,
        cfg.MODEL.PIXEL_STD,
        bgr=cfg.INPUT.FORMAT == "BGR",
        crop_scales=cfg.MODEL.TEACHER.CROP_SCALES,
    )
    if teacher.width != width:
        raise ValueError(
            f"The teacher {cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP) gives embeddings of width {teacher.width}, but "
            f"MODEL.VOCABULARY.TEST has width {width}: both must come from the same CLIP."
        )
    filters = tuple(kd.SLOT_FILTERS)
    slots = SlotSelection(kd.NUM_SLOTS, filters, kd.BASE_OVERLAP_IOU, kd.DUPLICATES_IOU, kd.MIN_SIDE)
    companions = Companions(kd.GROUP, tuple(kd.READS), kd.REFERENCE)
    terms = build_terms(kd.TERMS, _term_settings(kd))
    detr = cfg.MODEL.DETR
    return DistillationBranch(teacher, terms, detr.NUM_QUERIES, detr.CHANNELS, slots, companions, kd.LAYERS)


def _term_settings(kd: CfgNode) -> TermSettings:
    names = ("semantic", "relational", "embedding_l1")
    return TermSettings(
        {name: kd[name.upper()].WEIGHT for name in names},
        kd.SEMANTIC.TEMPERATURE,
        kd.RELATIONAL.TEMPERATURE,
        kd.RELATIONAL.DIRECTION,
        tuple(kd.RELATIONAL.SCOPES),
    )
