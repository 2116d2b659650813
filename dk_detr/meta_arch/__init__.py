"""Meta-architectures: whole detectors for Detectron2's registry."""

from dk_detr.meta_arch.detr import DETR

__all__ = ["DETR"]
