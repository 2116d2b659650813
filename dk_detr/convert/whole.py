"""The end of every conversion: the result must be a whole backbone, or a whole detector."""

from collections.abc import Mapping, Sequence
from typing import Any

from dk_detr.convert.conversion import Conversion
from dk_detr.convert.implied import (
    Missing,
    Shapes,
    backbone_settings,
    backbone_shapes,
    detector_settings,
    detector_shapes,
)
from dk_detr.convert.ledger import Ledger


def finish_backbone(source: str, ledger: Ledger, notes: Sequence[str]) -> Conversion:
    """The conversion of a backbone. Raises ValueError where a tensor is left over, missing or of another shape."""
    ledger.check()
    try:
        settings = backbone_settings(ledger.target)
        check_shapes(ledger, backbone_shapes(ledger.target))
    except Missing as missing:
        raise ValueError(absence(ledger, str(missing))) from None
    config = "configs/Base-DETR.yaml"
    return Conversion(source, ledger.target, *ledger.account(), settings, config, (*notes, *_odd_blocks(settings)))


def finish_detector(
    source: str, ledger: Ledger, choices: Mapping[str, Any], config: str, notes: Sequence[str]
) -> Conversion:
    """The conversion of a detector. Raises ValueError where a tensor is left over, missing or of another shape.

    Args:
        choices: config keys that name its parts, and those that no shape can tell.
        config: the file of configs/ that names the same parts.
    """
    ledger.check()
    try:
        settings = detector_settings(ledger.target, choices)
        check_shapes(ledger, detector_shapes(settings, ledger.target))
    except Missing as missing:
        raise ValueError(absence(ledger, str(missing))) from None
    notes = (*notes, *_odd_blocks(settings), *_untold(settings, choices))
    return Conversion(source, ledger.target, *ledger.account(), settings, config, notes)


def check_shapes(ledger: Ledger, wanted: Shapes) -> None:
    """Raises ValueError unless the result is exactly of these names and shapes."""
    state = ledger.target
    absent = [name for name in wanted if name not in state]
    if absent:
        raise ValueError(absence(ledger, *absent))
    surplus = [name for name in state if name not in wanted]
    if surplus:
        raise ValueError(f"{surplus[0]} has no place in the model that the other tensors imply.")
    for name, shape in wanted.items():
        if state[name].shape != shape:
            theirs = ledger.name_in_source(name)
            raise ValueError(
                f"{name}{f' (from {theirs})' if theirs else ''} has shape {tuple(state[name].shape)}; "
                f"the other tensors imply {tuple(shape)}."
            )


def absence(ledger: Ledger, *absent: str) -> str:
    """A message for tensors of the result that are not there."""
    theirs = ledger.name_in_source(absent[0])
    where = f"its source {theirs}" if theirs else "what it is made of"
    more = f" ({len(absent)} such tensors)" if len(absent) > 1 else ""
    return f"{absent[0]} cannot be filled: {where} is not among the {len(ledger.state)} tensors{more}."


def _odd_blocks(settings: Mapping[str, Any]) -> list[str]:
    if "MODEL.RESNETS.DEPTH" in settings:
        return []
    return ["MODEL.RESNETS.DEPTH has no number for a ResNet with these blocks: the backbone needs code of its own."]


def _untold(settings: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    notes, heads = [], settings["MODEL.DETR.NUM_HEADS"]
    points = settings.get("MODEL.DETR.NUM_POINTS")
    if "MODEL.DETR.NUM_HEADS" not in choices:
        notes.append(
            f"MODEL.DETR.NUM_HEADS × NUM_POINTS is {heads * points}; shapes do not tell the two apart, "
            f"{heads} × {points} is assumed."
            if points
            else f"MODEL.DETR.NUM_HEADS is told by no shape; {heads} is assumed."
        )
    if "MODEL.DETR.NUM_QUERIES" not in settings:
        notes.append("MODEL.DETR.NUM_QUERIES is told by no shape of a two-stage detector; 300 is usual.")
    return notes
