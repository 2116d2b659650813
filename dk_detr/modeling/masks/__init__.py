"""Masks of the objects that queries found."""

from typing import Any

from dk_detr.modeling.masks.dynamic import DynamicMasks
from dk_detr.modeling.masks.frame import MaskFrame, frames_of

MASKS: dict[str, Any] = {"Dynamic": DynamicMasks}
"""By their name in MODEL.DETR.MASKS."""

__all__ = ["MASKS", "DynamicMasks", "MaskFrame", "frames_of"]
