"""Annotation files in COCO's and LVIS's format: what may stand in them, one reader for all that use them."""

from dk_detr.annotations.defects import Defect, Kind
from dk_detr.annotations.file import (
    EVALUATION,
    EVALUATION_MASKS,
    SPLITTING,
    TRAINING,
    Use,
    read_annotation_file,
    read_categories,
    refuse,
)
from dk_detr.annotations.novel import SPLITS, choose_novel, is_marked_novel, marked_novel, novel_of_benchmark

__all__ = [
    "EVALUATION", "EVALUATION_MASKS", "SPLITS", "SPLITTING", "TRAINING", "Defect", "Kind", "Use", "choose_novel",
    "is_marked_novel", "marked_novel", "novel_of_benchmark", "read_annotation_file", "read_categories", "refuse",
]  # fmt: skip
