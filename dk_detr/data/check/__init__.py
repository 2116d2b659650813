"""Check a data set before hours are spent on it: every record, every image, each defect with where it is."""

from dk_detr.annotations.defects import Defect, Kind
from dk_detr.data.check.dataset_check import DatasetCheck, check_annotations

__all__ = ["DatasetCheck", "Defect", "Kind", "check_annotations"]
