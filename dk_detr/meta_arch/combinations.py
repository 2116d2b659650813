"""Parts that do not go together are refused here, before anything is built, naming both keys."""

from detectron2.config import CfgNode

from dk_detr.criterion import CLASS_LOSSES
from dk_detr.language import is_closed
from dk_detr.modeling import (
    CLASSIFIERS,
    COMPANIONS,
    POSITIONS,
    QUERIES,
    REFINEMENTS,
    CosineTextObjectness,
    Learned,
    Proposals,
)
from dk_detr.utils import choose, require


def refuse_bad_combinations(cfg: CfgNode) -> None:
    """Raises ValueError for parts of MODEL.DETR that do not go together, or that do not exist."""
    detr = cfg.MODEL.DETR
    for check in (_classifier_and_loss, _attention_and_levels, _attention_and_position, _queries_and_position,
                  _queries_and_refinement, _queries_and_content, _queries_and_companions, _layers):  # fmt: skip
        check(detr)
    _padding_and_sizes(cfg)
    if detr.FIRST_STAGE == "Words":
        if not issubclass(QUERIES[detr.QUERIES], Proposals):
            raise _refusal(detr, "FIRST_STAGE", "QUERIES", "has no first stage", '"Mixed" has one')
        if not is_closed(cfg):
            raise ValueError(
                f'MODEL.DETR.FIRST_STAGE "Words" proposes nothing but the words of training, and '
                f'MODEL.DETR.CLASSIFIER.NAME "{detr.CLASSIFIER.NAME}" is for others, too: choose "Objects".'
            )


def _classifier_and_loss(detr: CfgNode) -> None:
    classifier = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", detr.CLASSIFIER.NAME)
    loss = choose(CLASS_LOSSES, "MODEL.DETR.LOSS.CLASS", detr.LOSS.CLASS)
    if classifier.activation != loss.activation:
        fitting = [name for name, other in CLASS_LOSSES.items() if other.activation == classifier.activation]
        raise ValueError(
            f'MODEL.DETR.LOSS.CLASS "{detr.LOSS.CLASS}" is not for MODEL.DETR.CLASSIFIER.NAME '
            f'"{detr.CLASSIFIER.NAME}": choose the loss "{fitting[0]}", or another classifier.'
        )
    queries = choose(QUERIES, "MODEL.DETR.QUERIES", detr.QUERIES)
    if classifier is CosineTextObjectness and not issubclass(queries, Proposals):
        raise ValueError(
            'MODEL.DETR.CLASSIFIER.NAME "CosineTextObjectness" asks the first stage what is an object, but '
            f'MODEL.DETR.QUERIES "{detr.QUERIES}" has none. Choose "Proposals" or "Mixed".'
        )


def _attention_and_levels(detr: CfgNode) -> None:
    require("MODEL.DETR.ENCODER_ATTENTION", detr.ENCODER_ATTENTION, ("Deformable", "Dense"))
    require("MODEL.DETR.DECODER_ATTENTION", detr.DECODER_ATTENTION, ("Deformable", "Dense", "Conditional"))
    levels = len(detr.IN_FEATURES) + detr.NUM_EXTRA_LEVELS
    for key in ("ENCODER_ATTENTION", "DECODER_ATTENTION"):
        if detr[key] != "Deformable" and levels > 1:
            raise ValueError(
                f'MODEL.DETR.{key} "{detr[key]}" looks at one level, but MODEL.DETR.IN_FEATURES '
                f"{list(detr.IN_FEATURES)} and NUM_EXTRA_LEVELS {detr.NUM_EXTRA_LEVELS} make {levels}: name one map "
                'and 0, or choose "Deformable".'
            )


def _attention_and_position(detr: CfgNode) -> None:
    position = choose(POSITIONS, "MODEL.DETR.POSITION", detr.POSITION)
    if detr.DECODER_ATTENTION not in position.attention:
        fitting = [name for name, other in POSITIONS.items() if detr.DECODER_ATTENTION in other.attention]
        raise _refusal(detr, "POSITION", "DECODER_ATTENTION", "cannot use it", f"that takes {_names(fitting)}")


def _queries_and_position(detr: CfgNode) -> None:
    queries, position = QUERIES[detr.QUERIES], POSITIONS[detr.POSITION]
    if position.given and detr.QUERIES == "Anchors":
        raise _refusal(detr, "POSITION", "QUERIES", "brings none", f"boxes take {_names(_derived())}")
    if not position.given and issubclass(queries, Learned):
        raise _refusal(detr, "POSITION", "QUERIES", "brings no boxes to derive it from", '"Anchors" does')
    if not position.given and detr.QUERIES == "Proposals":
        raise _refusal(detr, "POSITION", "QUERIES", "brings its own", '"Mixed" leaves it to the decoder')


def _queries_and_refinement(detr: CfgNode) -> None:
    refinement = choose(REFINEMENTS, "MODEL.DETR.REFINEMENT", detr.REFINEMENT)
    pointless = issubclass(QUERIES[detr.QUERIES], Learned) and detr.DECODER_ATTENTION == "Dense"
    if refinement.needs_reference and pointless:
        raise ValueError(
            f'MODEL.DETR.REFINEMENT "{detr.REFINEMENT}" starts from a reference, but MODEL.DETR.QUERIES '
            f'"{detr.QUERIES}" with MODEL.DETR.DECODER_ATTENTION "Dense" has none: choose "Direct".'
        )


def _queries_and_content(detr: CfgNode) -> None:
    if issubclass(QUERIES[detr.QUERIES], Proposals) and detr.CONTENT != "Learned":
        raise _refusal(detr, "CONTENT", "QUERIES", "has its own", 'leave it at "Learned", or choose "Anchors"')


def _layers(detr: CfgNode) -> None:
    """A scale that no layer uses would never learn, and DDP would wait for its gradient."""
    if 0 < detr.DECODER_LAYERS < POSITIONS[detr.POSITION].least_layers:
        raise _refusal(detr, "POSITION", "DECODER_LAYERS", "leaves its scale without a layer", "take 2 or more")
    if detr.ENCODER_POSITION == "ScaledSine" and detr.ENCODER_LAYERS == 0:
        raise _refusal(detr, "ENCODER_POSITION", "ENCODER_LAYERS", "leaves its scale without a layer", "take 1 or more")


def _queries_and_companions(detr: CfgNode) -> None:
    for name in detr.COMPANIONS:
        require("MODEL.DETR.COMPANIONS", name, COMPANIONS)
    if len(detr.COMPANIONS) > 1:
        raise ValueError(f"MODEL.DETR.COMPANIONS names {_names(detr.COMPANIONS)}: one of them denoises.")
    if detr.COMPANIONS and issubclass(QUERIES[detr.QUERIES], Learned):
        raise ValueError(
            f'MODEL.DETR.COMPANIONS "{detr.COMPANIONS[0]}" starts from boxes, MODEL.DETR.QUERIES "{detr.QUERIES}" '
            'does not: choose "Anchors", "Proposals" or "Mixed".'
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


def _derived() -> list[str]:
    return [name for name, position in POSITIONS.items() if not position.given]


def _refusal(detr: CfgNode, key: str, other: str, why: str, remedy: str) -> ValueError:
    return ValueError(f'MODEL.DETR.{key} is "{detr[key]}", but MODEL.DETR.{other} "{detr[other]}" {why}: {remedy}.')


def _names(names: list[str]) -> str:
    return " or ".join(f'"{name}"' for name in names)
