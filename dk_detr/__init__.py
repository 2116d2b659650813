"""DK-DETR: open-vocabulary detection on Detectron2. Importing this package registers its parts with Detectron2."""

from dk_detr.compat import make_importable

make_importable()

from dk_detr import data, meta_arch
from dk_detr.config import add_dk_detr_config

__version__ = "0.1.0"
__all__ = ["add_dk_detr_config", "data", "meta_arch"]
