"""From a config to the parts of a detector."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone

from dk_detr.criterion import (
    CLASS_LOSSES,
    NEGATIVES,
    ClassLoss,
    CrossEntropy,
    Focal,
    HungarianMatcher,
    MaskCriterion,
    SetCriterion,
)
from dk_detr.distillation.calibration_file import calibration_from_config, warn_of_other_crops
from dk_detr.extensions import BuildContext
from dk_detr.language import vocabularies_from_config
from dk_detr.meta_arch.combinations import draws_masks, refuse_bad_combinations
from dk_detr.meta_arch.extensions import build_extensions
from dk_detr.modeling import (
    CLASSIFIERS,
    DECODERS,
    MASKS,
    QUERIES,
    BoxQuality,
    ChannelMapper,
    CosineText,
    DynamicMasks,
    Encoder,
    Linear,
    ROIHead,
    accelerate,
)
from dk_detr.structures import Calibration, Vocabulary
from dk_detr.utils import choose

COARSEST = 8  # stride in pixels of a level that masks can be drawn on


def parts_from_config(cfg: CfgNode, backbone: Backbone) -> dict[str, Any]:
    """The arguments of `DETR`. Raises ValueError for parts that do not go together, naming both keys."""
    detr, masks = cfg.MODEL.DETR, cfg.MODEL.DETR.LOSS.MASK_WEIGHTS
    refuse_bad_combinations(cfg)
    train_vocabulary, vocabulary = vocabularies_from_config(cfg)
    calibration = _calibration(cfg, vocabulary)
    criterion = build_criterion(cfg, build_class_loss(cfg, train_vocabulary), detr.LOSS.WEIGHTS, "decoder")
    network = build_network(cfg, backbone, len(train_vocabulary), vocabulary.width, calibration)
    context = BuildContext(train_vocabulary, vocabulary, criterion, network)
    parts = {
        **network,
        "criterion": criterion,
        "proposal_criterion": build_criterion(cfg, Focal(), detr.LOSS.FIRST_STAGE_WEIGHTS, "first_stage"),
        "extensions": build_extensions(cfg, context),
        "train_vocabulary": train_vocabulary,
        "vocabulary": vocabulary,
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
        "num_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
        "padded_size": detr.PADDED_SIZE,
        "nms_iou": detr.NMS_IOU,
        "quality_exponent": detr.QUALITY.EXPONENT,
        "mask_criterion": MaskCriterion({"dice": masks.DICE, "bce": masks.BCE}),
    }
    accelerate(parts, detr.CHECKPOINTED, detr.COMPILED)
    return parts


def build_network(
    cfg: CfgNode, backbone: Backbone, num_words: int, width: int, calibration: Calibration | None = None
) -> dict[str, Any]:
    """What inference has: the modules of `DETR` with weights, by name.

    Args:
        num_words: of training. width: of the words' embeddings. calibration: of the classifier.
    """
    detr = cfg.MODEL.DETR
    neck = ChannelMapper(cfg, backbone.output_shape())
    queries = choose(QUERIES, "MODEL.DETR.QUERIES", detr.QUERIES)(cfg, num_words)
    encoder = Encoder(cfg, neck.num_levels)
    part = choose(DECODERS, "MODEL.DETR.DECODER", detr.DECODER)
    decoder = part(cfg, neck.strides, queries.reference_width)
    rates_boxes = "decoder" in detr.QUALITY.PLACES
    return {
        "backbone": backbone,
        "neck": neck,
        "encoder": encoder,
        "queries": queries,
        "decoder": decoder,
        "classifier": build_classifier(cfg, width, decoder.num_prediction_heads, calibration),
        **({"roi_head": ROIHead(cfg, width)} if cfg.MODEL.KD.QUERIES == "ROIHead" else {}),
        **({"quality": BoxQuality(detr.CHANNELS, decoder.num_prediction_heads)} if rates_boxes else {}),
        **({"mask_head": build_mask_head(cfg, backbone)} if draws_masks(cfg) else {}),
    }


def backbone_from_config(cfg: CfgNode) -> Backbone:
    """The backbone, without the stages of MODEL.RESNETS.OUT_FEATURES beyond the last of MODEL.DETR.IN_FEATURES: no loss
    would reach them, and DDP waits for every gradient. Weights that hold them fit all the same."""
    read, given = cfg.MODEL.DETR.IN_FEATURES, sorted(cfg.MODEL.RESNETS.OUT_FEATURES)
    kept = [name for name in given if name <= max(read, default="")]
    if set(read) <= set(given) and len(kept) < len(given):
        cfg = cfg.clone()
        cfg.defrost()
        cfg.MODEL.RESNETS.OUT_FEATURES = kept
    return build_backbone(cfg)


def build_classifier(
    cfg: CfgNode, width: int, num_projections: int, calibration: Calibration | None = None
) -> CosineText | Linear:
    """The classifier of MODEL.DETR.CLASSIFIER, for words of this width."""
    part = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", cfg.MODEL.DETR.CLASSIFIER.NAME)
    if calibration is None:
        return part(cfg, width, num_projections)
    return CosineText(cfg, width, num_projections, calibration=calibration)  # the config is refused with others


def build_mask_head(cfg: CfgNode, backbone: Backbone) -> DynamicMasks:
    """What MODEL.DETR.MASKS names. Raises ValueError where the memory's finest level is too coarse for masks."""
    detr = cfg.MODEL.DETR
    finest = detr.IN_FEATURES[0]
    stride = backbone.output_shape()[finest].stride
    if stride is not None and stride > COARSEST:
        raise ValueError(
            f'MODEL.DETR.MASKS "{detr.MASKS}" draws on the finest level of the memory, and MODEL.DETR.IN_FEATURES '
            f'begins with "{finest}", of stride {stride}: too coarse for masks. Begin with a map of stride {COARSEST}, '
            'say "res3", or set MODEL.MASK_ON False.'
        )
    return choose(MASKS, "MODEL.DETR.MASKS", detr.MASKS)(cfg)


def _calibration(cfg: CfgNode, vocabulary: Vocabulary) -> Calibration | None:
    """Of the classifier, by MODEL.CALIBRATION. Raises ValueError where that is of another CLIP than the words."""
    calibration = calibration_from_config(cfg)
    if calibration is None:
        return None
    calibration.require_teacher_of(vocabulary)
    warn_of_other_crops(calibration, cfg)
    return calibration.classifier


def build_class_loss(cfg: CfgNode, train_vocabulary: Vocabulary) -> ClassLoss:
    """What MODEL.DETR.LOSS.CLASS and NEGATIVES name."""
    loss = cfg.MODEL.DETR.LOSS
    part = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", loss.CLASS)
    if issubclass(part, CrossEntropy):
        return part(loss.NO_OBJECT_WEIGHT)
    if issubclass(part, Focal):
        negatives = choose(NEGATIVES, "MODEL.DETR.LOSS.NEGATIVES", loss.NEGATIVES)
        return part(negatives.from_config(loss, train_vocabulary))
    return part()


def build_criterion(cfg: CfgNode, class_loss: ClassLoss, weights: Mapping[str, float], place: str) -> SetCriterion:
    """Matching by the costs of MODEL.DETR.MATCHER, and losses of these weights; that of the quality where the `place`,
    "decoder" or "first_stage", says one."""
    costs = {term.lower(): weight for term, weight in cfg.MODEL.DETR.MATCHER.items()}
    learned = {term.lower(): weight for term, weight in weights.items()}
    if place in cfg.MODEL.DETR.QUALITY.PLACES:
        learned["quality"] = cfg.MODEL.DETR.QUALITY.WEIGHT
    return SetCriterion(HungarianMatcher(costs, class_loss, cfg.MODEL.DETR.LOSS.L1), learned)
