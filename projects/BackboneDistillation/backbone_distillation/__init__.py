"""A small backbone learns from a large one, on crops of labelled boxes.

A config that names this package in PROJECTS has the keys of `config.py`, the META_ARCHITECTURE "ImageClassifier" and
the training stream "Crops".
"""

from dk_detr.engine.train_streams import TRAIN_STREAMS
from projects.BackboneDistillation.backbone_distillation.classifier import ImageClassifier
from projects.BackboneDistillation.backbone_distillation.config import add_config
from projects.BackboneDistillation.backbone_distillation.crops import build_crop_stream

TRAIN_STREAMS["Crops"] = build_crop_stream

__all__ = ["ImageClassifier", "add_config", "build_crop_stream"]
