"""DK-DETR: open-vocabulary detection on Detectron2. Importing this package registers its parts with Detectron2."""

from dk_detr.compat import make_importable

make_importable()

from typing import TYPE_CHECKING, Any

from dk_detr import data, meta_arch
from dk_detr.config import add_dk_detr_config

if TYPE_CHECKING:
    from dk_detr.detector import Detections, Detector, load

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "add_dk_detr_config", "data", "load", "meta_arch"]


def __getattr__(name: str) -> Any:
    """`load` and what it returns: imported when they are asked for, for they draw, and training does not."""
    if name in ("Detections", "Detector", "load"):
        from dk_detr import detector

        return getattr(detector, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
