"""Data: which data sets there are, and how their records become samples."""

from dk_detr.data.datasets import (
    DATASETS,
    DataSet,
    categories_of,
    datasets_below,
    datasets_root,
    load_coco_format,
    read_annotations,
    register,
    register_all,
)
from dk_detr.data.loader import TrainStream, batch_size_per_worker, build_train_stream, train_records
from dk_detr.data.mapper import TrainMapper, labels_among, test_mapper, train_augmentations
from dk_detr.data.present import require_images

register_all()

__all__ = [
    "DATASETS", "DataSet", "TrainMapper", "TrainStream", "batch_size_per_worker", "build_train_stream", "categories_of",
    "datasets_below", "datasets_root", "labels_among", "load_coco_format", "read_annotations", "register",
    "register_all", "require_images", "test_mapper", "train_augmentations", "train_records",
]  # fmt: skip
