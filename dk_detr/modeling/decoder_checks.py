"""What does not go together in the loop of the DETR series; refused before anything is built, naming both keys."""

from collections.abc import Mapping

from detectron2.config import CfgNode

from dk_detr.modeling.attention import ATTENTIONS, AttentionKind
from dk_detr.modeling.positions import POSITIONS
from dk_detr.modeling.queries import QUERIES
from dk_detr.modeling.refinement import REFINEMENTS
from dk_detr.utils import choose


def refuse_bad_loop(detr: CfgNode) -> None:
    """Raises ValueError for parts of MODEL.DETR that the decoder "DETR" cannot use together, or that do not exist."""
    if detr.DECODER_LAYERS < 1:
        raise ValueError(f"MODEL.DETR.DECODER_LAYERS must be at least 1, got {detr.DECODER_LAYERS}.")
    refuse_too_many_levels(detr, "DECODER_ATTENTION", ATTENTIONS)
    for check in (_attention_and_position, _queries_and_position, _queries_and_refinement, _position_and_layers):
        check(detr)


def _attention_and_position(detr: CfgNode) -> None:
    position, attention = choose(POSITIONS, "MODEL.DETR.POSITION", detr.POSITION), ATTENTIONS[detr.DECODER_ATTENTION]
    if position.added != attention.adds_position:
        fitting = [name for name, other in POSITIONS.items() if other.added == attention.adds_position]
        raise refusal(detr, "POSITION", "DECODER_ATTENTION", "cannot use it", f"that takes {quoted(fitting)}")


def _queries_and_position(detr: CfgNode) -> None:
    queries, position = QUERIES[detr.QUERIES], POSITIONS[detr.POSITION]
    if position.given and queries.positions == "never":
        derived = [name for name, other in POSITIONS.items() if not other.given]
        raise refusal(detr, "POSITION", "QUERIES", "brings none", f"boxes take {quoted(derived)}")
    if not position.given and not queries.starts_from_boxes:
        raise refusal(detr, "POSITION", "QUERIES", "brings no boxes to derive it from", '"Anchors" does')
    if not position.given and queries.positions == "always":
        raise refusal(detr, "POSITION", "QUERIES", "brings its own", '"Mixed" leaves it to the decoder')


def _queries_and_refinement(detr: CfgNode) -> None:
    refinement = choose(REFINEMENTS, "MODEL.DETR.REFINEMENT", detr.REFINEMENT)
    without_points = ATTENTIONS[detr.DECODER_ATTENTION].point_layers == 0
    if refinement.needs_reference and not QUERIES[detr.QUERIES].starts_from_boxes and without_points:
        raise ValueError(
            f'MODEL.DETR.REFINEMENT "{detr.REFINEMENT}" starts from a reference, but MODEL.DETR.QUERIES '
            f'"{detr.QUERIES}" with MODEL.DETR.DECODER_ATTENTION "{detr.DECODER_ATTENTION}" has none: choose "Direct".'
        )


def _position_and_layers(detr: CfgNode) -> None:
    """A scale that no layer uses would never learn, and DDP would wait for its gradient."""
    if detr.DECODER_LAYERS < POSITIONS[detr.POSITION].least_layers:
        raise refusal(detr, "POSITION", "DECODER_LAYERS", "leaves its scale without a layer", "take 2 or more")


def refuse_too_many_levels(detr: CfgNode, key: str, kinds: Mapping[str, AttentionKind]) -> None:
    """Raises ValueError for a kind of attention that is not among these, or that reads fewer levels than there are."""
    levels = len(detr.IN_FEATURES) + detr.NUM_EXTRA_LEVELS
    if not choose(kinds, f"MODEL.DETR.{key}", detr[key]).many_levels and levels > 1:
        raise ValueError(
            f'MODEL.DETR.{key} "{detr[key]}" looks at one level, but MODEL.DETR.IN_FEATURES '
            f"{list(detr.IN_FEATURES)} and NUM_EXTRA_LEVELS {detr.NUM_EXTRA_LEVELS} make {levels}: name one map "
            'and 0, or choose "Deformable".'
        )


def refusal(detr: CfgNode, key: str, other: str, why: str, remedy: str) -> ValueError:
    """The error for two keys of MODEL.DETR."""
    return ValueError(f'MODEL.DETR.{key} is "{detr[key]}", but MODEL.DETR.{other} "{detr[other]}" {why}: {remedy}.')


def quoted(names: list[str]) -> str:
    """Names to choose from."""
    return " or ".join(f'"{name}"' for name in names)
