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

__all__ = [
    "EVALUATION", "EVALUATION_MASKS", "SPLITTING", "TRAINING", "Defect", "Kind", "Use", "read_annotation_file",
    "read_categories", "refuse",
]  # fmt: skip
