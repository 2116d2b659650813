"""Split files of open-vocabulary benchmarks, made from the official annotation files."""

from dk_detr.data.prepare.counts import Written
from dk_detr.data.prepare.custom import split_custom
from dk_detr.data.prepare.lvis import drop_rare, take_minival, without_rare
from dk_detr.data.prepare.objects365 import convert_objects365
from dk_detr.data.prepare.ov_coco import split_coco
from dk_detr.data.prepare.voc import convert_voc

__all__ = [
    "Written", "convert_objects365", "convert_voc", "drop_rare", "split_coco", "split_custom", "take_minival",
    "without_rare",
]  # fmt: skip
