"""From an annotation record to the input of a detector: image, boxes, and labels among the base words."""

import copy
from collections.abc import Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, MetadataCatalog
from detectron2.data import detection_utils as utils
from detectron2.structures import Boxes, BoxMode

from dk_detr.data.bank import EmbeddingBank, follow
from dk_detr.data.images import read_image, to_tensor
from dk_detr.data.resizing import NeverEmpty, evaluation_resize, shortest_edge
from dk_detr.utils import choose

LONGEST_TO_CUT = 16_384  # pixels; a strip of 1 x 4000, made 400 high, would have 640 million


def train_augmentations(cfg: CfgNode) -> list[T.Augmentation]:
    """The augmentation of INPUT.AUGMENTATION."""
    size, (low, high) = cfg.INPUT.JITTER_SIZE, cfg.INPUT.JITTER_SCALE
    resize_and_flip = shortest_edge(cfg, is_train=True)
    jitter = NeverEmpty(T.ResizeScale(low, high, size, size))
    kinds: dict[str, list[T.Augmentation]] = {
        # Not padded here: the detector pads, and then knows what is padding.
        "LargeScaleJitter": [jitter, _Crop((size, size), pad=False), T.RandomFlip()],
        "ShortestEdge": resize_and_flip,
        "CropOrNot": [_crop_or_not(), *resize_and_flip],
    }
    return choose(kinds, "INPUT.AUGMENTATION", cfg.INPUT.AUGMENTATION)


def _crop_or_not() -> T.Augmentation:
    """Of half of the images, a random crop of 384 to 600 pixels a side, after a resize to 400, 500 or 600 (DETR)."""
    resize = NeverEmpty(T.ResizeShortestEdge([400, 500, 600], LONGEST_TO_CUT, sample_style="choice"))
    return T.RandomApply(T.AugmentationList([resize, _RandomCrop("absolute_range", (384, 600))]), 0.5)


class _RandomCrop(T.RandomCrop):
    """Detectron2's, but polygons are only moved, not clipped."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        crop = super().get_transform(image)
        return _MovePolygons(crop.x0, crop.y0, crop.w, crop.h, crop.orig_w, crop.orig_h)


class _Crop(T.FixedSizeCrop):
    """Detectron2's, but polygons are only moved, not clipped."""

    def _get_crop(self, image: np.ndarray) -> T.Transform:
        crop = super()._get_crop(image)
        return _MovePolygons(crop.x0, crop.y0, crop.w, crop.h, crop.orig_w, crop.orig_h)


class _MovePolygons(T.CropTransform):
    """Clipping polygons would need another package (shapely), for nothing: what lies outside of the image, or of a
    clipped box, is not drawn. An object whose box is in view and whose polygon is not stays, with an empty mask; as a
    bitmap it is dropped."""

    def apply_polygons(self, polygons: list[np.ndarray]) -> list[np.ndarray]:
        return [self.apply_coords(polygon) for polygon in polygons]


class _Mapper(DatasetMapper):
    """Detectron2's, with this project's reader of images. Raises UnreadableImage; ValueError for an unexpected size."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        sample = copy.deepcopy(dataset_dict)  # transforms write into the annotations
        image = read_image(sample["file_name"], self.image_format)
        utils.check_image_size(sample, image)
        seen = T.AugInput(image)
        transforms = self.augmentations(seen)
        sample["image"] = to_tensor(seen.image)
        if self.is_train:
            self._transform_annotations(sample, transforms, seen.image.shape[:2])
        else:
            sample.pop("annotations", None)
        return sample


class _WithObjects(_Mapper):
    """Adds the boxes of the objects, and their classes for the evaluator; crowds are none."""

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        sample = super().__call__(dataset_dict)
        single = [each for each in dataset_dict.get("annotations", ()) if not each.get("iscrowd")]
        boxes = [BoxMode.convert(each["bbox"], each["bbox_mode"], BoxMode.XYXY_ABS) for each in single]
        corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        (height, width), given = sample["image"].shape[-2:], (sample["width"], sample["height"])
        sample["objects"] = Boxes(corners * torch.tensor([width / given[0], height / given[1]] * 2))
        sample["object_classes"] = torch.tensor([each["category_id"] for each in single], dtype=torch.long)
        return sample


def test_mapper(cfg: CfgNode, with_objects: bool = False) -> DatasetMapper:
    """The mapper of evaluation: resized, and without annotations. `with_objects`: but with the boxes of the objects,
    "objects", xyxy in pixels of the network's input."""
    kind = _WithObjects if with_objects else _Mapper
    return kind(is_train=False, augmentations=[evaluation_resize(cfg)], image_format=cfg.INPUT.FORMAT)


class _WithRegions(_Mapper):
    """Adds the stored regions of the image, moved as the augmentation moves it. Args: see `follow`."""

    def __init__(self, bank: EmbeddingBank, count: int, min_side: float, **settings: Any) -> None:
        super().__init__(is_train=True, **settings)
        self.bank, self.count, self.min_side = bank, count, min_side

    # The only method of Detectron2's mapper that is given the transforms.
    def _transform_annotations(self, dataset_dict: dict[str, Any], transforms: Any, image_shape: Any) -> None:
        super()._transform_annotations(dataset_dict, transforms, image_shape)
        stored = self.bank[dataset_dict["image_id"]]
        dataset_dict["regions"] = follow(stored, transforms, image_shape, self.count, self.min_side)


class TrainMapper:
    """Detectron2's augmentation, then labels among the words of training; objects of other words are dropped.

    Args:
        labels: for each class of the data set its index among the words of training, or -1 where it is novel.
        bank: where there is one, samples have "regions": those of MODEL.TEACHER.BANK_REGIONS that are in view.
    """

    def __init__(self, cfg: CfgNode, labels: Sequence[int], bank: EmbeddingBank | None = None) -> None:
        masks = {"use_instance_mask": cfg.MODEL.MASK_ON, "instance_mask_format": cfg.INPUT.MASK_FORMAT}
        settings = {"augmentations": train_augmentations(cfg), "image_format": cfg.INPUT.FORMAT, **masks}
        if bank is None:
            self.mapper = _Mapper(is_train=True, **settings)
        else:
            self.mapper = _WithRegions(bank, cfg.MODEL.TEACHER.BANK_REGIONS, cfg.MODEL.KD.MIN_SIDE, **settings)
        self.labels = torch.tensor(labels, dtype=torch.long)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """A record in Detectron2's format -> image (3, h, w), `instances` with base objects only, and with a bank
        `regions` (see `follow`). Raises UnreadableImage; ValueError for an image of another size than the record's."""
        mapped = self.mapper(record)
        instances = mapped["instances"]
        instances.gt_classes = self.labels[instances.gt_classes]
        mapped["instances"] = instances[instances.gt_classes >= 0]
        return mapped


def labels_among(names: Sequence[str], train_names: Sequence[str], novel: Sequence[str], dataset: str) -> list[int]:
    """For each class of a data set its index among the words of training, -1 where it is novel.

    Raises: ValueError for a class that is neither: the vocabulary does not fit the data set; or for one that the
        benchmark hides from training and the vocabulary does not.
    """
    hidden = MetadataCatalog.get(dataset).get("novel_names", ()) if dataset in MetadataCatalog.list() else ()
    taught = [name for name in hidden if name in train_names]
    if taught:
        raise ValueError(
            f'"{dataset}" hides {len(hidden)} novel categories from training, but the vocabulary has {len(taught)} of '
            f'them among its base words; the first is "{taught[0]}". Build one that knows: '
            f"tools/build_vocabulary.py --annotations {MetadataCatalog.get(dataset).json_file} …."
        )
    index = {name: i for i, name in enumerate(train_names)}
    index.update({name: -1 for name in novel})
    unknown = [name for name in names if name not in index]
    if unknown:
        raise ValueError(
            f'{len(unknown)} of the {len(names)} categories of "{dataset}" are unknown to the vocabulary; the first is '
            f'"{unknown[0]}". Build a vocabulary of all of them: tools/build_vocabulary.py --annotations ….'
        )
    return [index[name] for name in names]
