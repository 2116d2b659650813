"""The numbers of calibrated sigmoids in weights, and those of the model that loads them: which of them count."""

import logging
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dk_detr.modeling import CosineText
from dk_detr.structures import Calibration

logger = logging.getLogger(__name__)


def agree_on_calibration(model: nn.Module, weights: dict[str, Any], path: str, goes_on: bool) -> dict[str, Any]:
    """The weights with the calibration that the model should have. What was trained counts; only a new training may
    change it.

    Args:
        weights: by our names. path: of them, for messages. goes_on: whether a run is taken up again.

    Raises: ValueError where a run would go on with other numbers, or where a calibrated detector should detect with
        weights that were trained without a calibration.
    """
    starts, agreed = model.training and not goes_on, dict(weights)
    for name, classifier in _sigmoids(model):
        key = f"{name}.calibration".lstrip(".")
        ours, theirs = _read(classifier.calibration), _read(weights.get(key))
        if ours == theirs:
            continue
        if goes_on or (theirs is None and not starts):
            wanted = '""' if theirs is None else "to the file of that training"
            raise ValueError(
                f"{path} was trained with {_said(theirs)}, but this detector has {_said(ours)}. Set "
                f"MODEL.CALIBRATION {wanted}, or train anew."
            )
        if ours is not None and starts:
            agreed[key] = classifier.calibration.detach().clone()  # type: ignore[union-attr]
            if any(other.startswith(f"{name}.") for other in weights):
                logger.info(f"{path} was trained with {_said(theirs)}; from here on it is {_said(ours)}.")
        else:
            logger.info(f"{path} was trained with {_said(theirs)}, which {name} takes from it.")
    return agreed


def _sigmoids(model: nn.Module) -> Iterator[tuple[str, CosineText]]:
    for name, module in model.named_modules():
        if isinstance(module, CosineText) and module.activation == "sigmoid":
            yield name, module


def _read(numbers: Tensor | Any) -> Calibration | None:
    if numbers is None:
        return None
    temperature, offset = torch.as_tensor(numbers).float().tolist()
    return Calibration(temperature, offset)


def _said(calibration: Calibration | None) -> str:
    return "no calibration" if calibration is None else f"the calibration {calibration}"
