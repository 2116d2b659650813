"""Meta-architectures: whole detectors for Detectron2's registry, and the table of what training adds to them."""

from dk_detr.meta_arch.clip_backbone import build_clip_backbone
from dk_detr.meta_arch.detr import DETR
from dk_detr.meta_arch.extensions import TRAINING_EXTENSIONS

__all__ = ["DETR", "TRAINING_EXTENSIONS", "build_clip_backbone"]
