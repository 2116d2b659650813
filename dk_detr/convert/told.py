"""Told: what a file beside the weights says of a detector, config.json or the arguments of its training."""

from collections.abc import Mapping
from typing import Any

ACTIVATIONS = ("relu", "prelu")


def known_settings(told: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What it tells, by config key. Raises ValueError for a detector that cannot be built.

    Args:
        told: its contents. names: config key -> name in it.
    """
    if told.get("dilation"):
        raise ValueError(
            "This detector dilates the last stage of its backbone (DC5), all but the first block. Detectron2's "
            "MODEL.RESNETS.RES5_DILATION dilates the first block too: that would be another network."
        )
    for name in ("activation_function", "transformer_activation"):
        if told.get(name, "relu") not in ACTIVATIONS:
            raise ValueError(
                f'This detector has the activation "{told[name]}" in its transformer ({name}); MODEL.DETR.ACTIVATION '
                f"knows {' and '.join(ACTIVATIONS)}."
            )
    return {key: told[name] for key, name in names.items() if name in told}


def temperature(told: Mapping[str, Any], height: str, width: str) -> dict[str, Any]:
    """That of the sine codes of cells. Raises ValueError where y and x have one each."""
    if height not in told:
        return {}
    if told[height] != told.get(width):
        raise ValueError(
            f"This detector codes y and x with two temperatures ({height} {told[height]}, {width} {told.get(width)}); "
            "MODEL.DETR.SINE.TEMPERATURE is one."
        )
    return {"MODEL.DETR.SINE.TEMPERATURE": float(told[height])}
