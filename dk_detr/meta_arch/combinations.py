"""Parts that do not go together are refused here, before anything is built, naming both keys."""

import math

from detectron2.config import CfgNode

from dk_detr.criterion import CLASS_LOSSES, NEGATIVES, All, Focal, OtherClusters
from dk_detr.distillation.calibration_file import calibration_from_config
from dk_detr.language import is_closed
from dk_detr.meta_arch.extensions import refuse_bad_extensions
from dk_detr.modeling import ATTENTIONS, CLASSIFIERS, DECODERS, MASKS, QUERIES, CosineText, CosineTextObjectness
from dk_detr.modeling.decoder_checks import quoted, refusal, refuse_too_many_levels
from dk_detr.modeling.quality import PLACES
from dk_detr.utils import choose, require


def refuse_bad_combinations(cfg: CfgNode) -> None:
    """Raises ValueError for parts that do not go together, or that do not exist."""
    detr = cfg.MODEL.DETR
    for check in (_ranges, _classifier_and_loss, _exponents, _quality, _queries_and_content, _encoder):
        check(detr)
    choose(DECODERS, "MODEL.DETR.DECODER", detr.DECODER).refuse_bad_combinations(detr)
    _negatives(cfg)
    _first_stage(cfg)
    _padding_and_sizes(cfg)
    _masks(cfg)
    calibration_from_config(cfg)
    refuse_bad_extensions(cfg)


def draws_masks(cfg: CfgNode) -> bool:
    """Whether the detector has a mask head: MODEL.DETR.MASKS names one, and MODEL.MASK_ON turns it on."""
    return bool(cfg.MODEL.MASK_ON and cfg.MODEL.DETR.MASKS)


def _masks(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    if detr.MASKS:
        choose(MASKS, "MODEL.DETR.MASKS", detr.MASKS)
    elif cfg.MODEL.MASK_ON:
        raise ValueError(
            'MODEL.MASK_ON asks for masks, and MODEL.DETR.MASKS "" draws none: name "Dynamic" there, or set '
            "MODEL.MASK_ON False for boxes alone."
        )
    for name, weight in detr.LOSS.MASK_WEIGHTS.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"MODEL.DETR.LOSS.MASK_WEIGHTS.{name} must be 0 or more, got {weight}.")


def _ranges(detr: CfgNode) -> None:
    """Numbers that would make no number of every loss."""
    if detr.CLASSIFIER.TEMPERATURE <= 0:
        raise ValueError(f"MODEL.DETR.CLASSIFIER.TEMPERATURE must be above 0, got {detr.CLASSIFIER.TEMPERATURE}.")
    if not 0 < detr.ANCHOR_SIZE < 0.99:
        raise ValueError(f"MODEL.DETR.ANCHOR_SIZE must lie between 0 and 0.99, got {detr.ANCHOR_SIZE}.")
    if detr.NMS_IOU is not None and not 0 < detr.NMS_IOU <= 1:
        raise ValueError(f"MODEL.DETR.NMS_IOU is an IoU above 0 and at most 1, or None for no NMS, got {detr.NMS_IOU}.")
    if detr.NUM_QUERIES < 1:
        raise ValueError(f"MODEL.DETR.NUM_QUERIES must be at least 1, got {detr.NUM_QUERIES}.")


def _classifier_and_loss(detr: CfgNode) -> None:
    classifier = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", detr.CLASSIFIER.NAME)
    loss = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", detr.LOSS.CLASS)
    if classifier.activation != loss.activation:
        fitting = [name for name, other in CLASS_LOSSES.items() if other.activation == classifier.activation]
        raise ValueError(
            f'MODEL.DETR.LOSS.CLASS "{detr.LOSS.CLASS}" is not for MODEL.DETR.CLASSIFIER.NAME '
            f'"{detr.CLASSIFIER.NAME}": choose the loss {quoted(fitting)}, or another classifier.'
        )
    queries = choose(QUERIES, "MODEL.DETR.QUERIES", detr.QUERIES)
    if classifier is CosineTextObjectness and not queries.proposes:
        raise ValueError(
            'MODEL.DETR.CLASSIFIER.NAME "CosineTextObjectness" asks the first stage what is an object, but '
            f'MODEL.DETR.QUERIES "{detr.QUERIES}" has none. Choose "Proposals" or "Mixed".'
        )


def _negatives(cfg: CfgNode) -> None:
    detr, loss = cfg.MODEL.DETR, cfg.MODEL.DETR.LOSS
    negatives = choose(NEGATIVES, "MODEL.DETR.LOSS.NEGATIVES", loss.NEGATIVES)
    negatives.refuse_bad_values(loss)
    if negatives is not All and not issubclass(CLASS_LOSSES[loss.CLASS], Focal):
        raise ValueError(
            f'MODEL.DETR.LOSS.NEGATIVES "{loss.NEGATIVES}" is for MODEL.DETR.LOSS.CLASS "Focal", not for '
            f'"{loss.CLASS}", which judges words together or not at all: set the former to "All".'
        )
    if negatives is OtherClusters and is_closed(cfg):
        raise ValueError(
            'MODEL.DETR.LOSS.NEGATIVES "OtherClusters" groups words by their text embeddings, which '
            f'MODEL.DETR.CLASSIFIER.NAME "{detr.CLASSIFIER.NAME}" does not have: choose "CosineText", or "All" or '
            '"Federated" negatives.'
        )


def _exponents(detr: CfgNode) -> None:
    """What multiplies scores is 1 or less, so that they stay in [0, 1]; and it must be there."""
    classifier, proposes = detr.CLASSIFIER.NAME, QUERIES[detr.QUERIES].proposes
    for key in CosineText.exponents:
        exponent = detr.CLASSIFIER[key]
        if exponent < 0:
            raise ValueError(f"MODEL.DETR.CLASSIFIER.{key} must be 0 or more, got {exponent}.")
        if exponent and classifier != "CosineText":
            raise ValueError(
                f"MODEL.DETR.CLASSIFIER.{key} {exponent} is for the scores of MODEL.DETR.CLASSIFIER.NAME "
                f'"CosineText", not of "{classifier}": set it to 0.0.'
            )
        if exponent and "OBJECTNESS" in key and not proposes:
            raise ValueError(
                f"MODEL.DETR.CLASSIFIER.{key} {exponent} asks the first stage what is an object, but "
                f'MODEL.DETR.QUERIES "{detr.QUERIES}" has none: set it to 0.0.'
            )


def _quality(detr: CfgNode) -> None:
    quality = detr.QUALITY
    for place in quality.PLACES:
        require("MODEL.DETR.QUALITY.PLACES", place, PLACES)
    for key in ("WEIGHT", "EXPONENT"):
        if not 0 <= quality[key] < math.inf:
            raise ValueError(f"MODEL.DETR.QUALITY.{key} must be 0 or more, got {quality[key]}.")
    if "first_stage" in quality.PLACES and not QUERIES[detr.QUERIES].proposes:
        raise ValueError(
            f'MODEL.DETR.QUALITY.PLACES names "first_stage", but MODEL.DETR.QUERIES "{detr.QUERIES}" has none: choose '
            '"Proposals" or "Mixed", or take it out.'
        )
    if "first_stage" in quality.PLACES and detr.FIRST_STAGE == "ClassAware":
        raise ValueError(
            'MODEL.DETR.QUALITY.PLACES names "first_stage", where MODEL.DETR.FIRST_STAGE "ClassAware" supervises the '
            'chosen tokens only: choose "ClassAgnostic", or take it out.'
        )


def _queries_and_content(detr: CfgNode) -> None:
    if not QUERIES[detr.QUERIES].contents and detr.CONTENT != "Learned":
        raise refusal(detr, "CONTENT", "QUERIES", "has its own", 'leave it at "Learned", or choose "Anchors"')


def _encoder(detr: CfgNode) -> None:
    """A scale that no layer uses would never learn, and DDP would wait for its gradient."""
    refuse_too_many_levels(detr, "ENCODER_ATTENTION", {name: kind for name, kind in ATTENTIONS.items() if kind.tokens})
    if detr.ENCODER_POSITION == "ScaledSine" and detr.ENCODER_LAYERS == 0:
        raise refusal(detr, "ENCODER_POSITION", "ENCODER_LAYERS", "leaves its scale without a layer", "take 1 or more")


def _first_stage(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    require("MODEL.DETR.FIRST_STAGE", detr.FIRST_STAGE, ("ClassAgnostic", "ClassAware"))
    if detr.FIRST_STAGE != "ClassAware":
        return
    if not QUERIES[detr.QUERIES].proposes:
        raise refusal(detr, "FIRST_STAGE", "QUERIES", "has no first stage", '"Mixed" has one')
    if not is_closed(cfg):
        raise ValueError(
            'MODEL.DETR.FIRST_STAGE "ClassAware" proposes nothing but the words of training, and '
            f'MODEL.DETR.CLASSIFIER.NAME "{detr.CLASSIFIER.NAME}" is for others, too: choose "ClassAgnostic".'
        )


def _padding_and_sizes(cfg: CfgNode) -> None:
    """What is larger than the square would be met in the middle of a run."""
    side = cfg.MODEL.DETR.PADDED_SIZE
    of_training = "JITTER_SIZE" if cfg.INPUT.AUGMENTATION == "LargeScaleJitter" else "MAX_SIZE_TRAIN"
    for key in (of_training, "MAX_SIZE_TEST"):
        if 0 < side < cfg.INPUT[key]:
            raise ValueError(
                f"INPUT.{key} {cfg.INPUT[key]} is more than MODEL.DETR.PADDED_SIZE {side}, the square that every image "
                "is padded to: lower the one, raise the other, or set MODEL.DETR.PADDED_SIZE 0 for no fixed padding."
            )
