"""Teachers: who sees in a region what the student should learn."""

from dk_detr.distillation.teachers.clip_crops import CLIPCrops

__all__ = ["CLIPCrops"]
