"""From a config to the parts of a detector. Bad combinations are refused here, naming the keys."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone

from dk_detr.criterion import CLASS_LOSSES, ClassLoss, CrossEntropy, Focal, HungarianMatcher, SetCriterion
from dk_detr.language import vocabularies_from_config
from dk_detr.meta_arch.build_branch import build_branch
from dk_detr.meta_arch.build_transformer import (
    build_decoder,
    build_encoder,
    build_neck,
    build_queries,
    num_prediction_heads,
)
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from dk_detr.modeling import CLASSIFIERS, COMPANIONS, CosineText, Denoising, Linear, accelerate
from dk_detr.utils import choose


def parts_from_config(cfg: CfgNode, backbone: Backbone) -> dict[str, Any]:
    """The arguments of `DETR`."""
    detr = cfg.MODEL.DETR
    refuse_bad_combinations(cfg)
    train_vocabulary, vocabulary = vocabularies_from_config(cfg)
    num_words = len(train_vocabulary)
    neck = build_neck(detr, backbone.output_shape())
    queries = build_queries(cfg, num_words)
    parts = {
        "backbone": backbone,
        "neck": neck,
        "encoder": build_encoder(detr, neck.num_levels),
        "queries": queries,
        "decoder": build_decoder(detr, neck.num_levels, queries.reference_width),
        "classifier": build_classifier(cfg, vocabulary.width),
        "criterion": build_criterion(detr, build_class_loss(detr)),
        "proposal_criterion": build_criterion(detr, Focal()),
        "companions": build_companions(cfg, num_words),
        "branch": build_branch(cfg, vocabulary) if cfg.MODEL.KD.TERMS else None,
        "train_vocabulary": train_vocabulary,
        "vocabulary": vocabulary,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "num_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "padded_size": detr.PADDED_SIZE,
    }
    accelerate(parts, detr.CHECKPOINTED, detr.COMPILED)
    return parts


def backbone_from_config(cfg: CfgNode) -> Backbone:
    """The backbone, without the stages of MODEL.RESNETS.OUT_FEATURES that MODEL.DETR.IN_FEATURES does not read: no loss
    would reach them, and DDP waits for every gradient. Weights that hold them fit all the same."""
    read, given = cfg.MODEL.DETR.IN_FEATURES, cfg.MODEL.RESNETS.OUT_FEATURES
    if set(read) < set(given):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.RESNETS.OUT_FEATURES = [name for name in given if name in read]
    return build_backbone(cfg)


def build_classifier(cfg: CfgNode, width: int) -> CosineText | Linear:
    """The classifier of MODEL.DETR.CLASSIFIER, for words of this width."""
    part = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", cfg.MODEL.DETR.CLASSIFIER.NAME)
    return part(cfg, width, num_prediction_heads(cfg.MODEL.DETR))


def build_companions(cfg: CfgNode, num_words: int) -> list[Denoising]:
    """Those of MODEL.DETR.COMPANIONS, in a detector that is trained for so many words."""
    names = cfg.MODEL.DETR.COMPANIONS
    return [choose(COMPANIONS, "MODEL.DETR.COMPANIONS", name)(cfg, num_words) for name in names]


def build_class_loss(detr: CfgNode) -> ClassLoss:
    """What MODEL.DETR.LOSS.CLASS names."""
    part = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", detr.LOSS.CLASS)
    return part(detr.LOSS.NO_OBJECT_WEIGHT) if part is CrossEntropy else part()


def build_criterion(detr: CfgNode, class_loss: ClassLoss) -> SetCriterion:
    """Matching and detection losses of MODEL.DETR."""
    cost, loss = detr.MATCHER, detr.LOSS
    matcher = HungarianMatcher(cost.CLASS_COST, cost.L1_COST, cost.GIOU_COST, class_loss)
    return SetCriterion(matcher, {"class": loss.CLASS_WEIGHT, "l1": loss.L1_WEIGHT, "giou": loss.GIOU_WEIGHT})
