"""Crops of labelled boxes: the only images that a classifier sees, in training and in evaluation the same way cut."""

from collections import Counter
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.detection_utils import check_image_size
from detectron2.data.samplers import TrainingSampler
from detectron2.structures import BoxMode
from torch import Tensor
from torch.nn import functional as F

from dk_detr.data import TrainStream, batch_size_per_worker
from dk_detr.data.images import read_image, to_tensor
from dk_detr.engine.train_streams import records_and_labels
from dk_detr.utils import require

Record = dict[str, Any]


def cut(image: Tensor, box_xyxy: Tensor, side: int, context: float) -> Tensor:
    """(3, H, W) -> (3, side, side): what a box shows, with some of what surrounds it, as far as the image reaches.

    Args:
        box_xyxy: (4,) in pixels. context: the box is enlarged by this.
    """
    (x0, y0, x1, y1), (height, width) = box_xyxy.tolist(), image.shape[-2:]
    grown_x, grown_y = (context - 1) * (x1 - x0) / 2, (context - 1) * (y1 - y0) / 2
    left, top = min(max(int(x0 - grown_x), 0), width - 1), min(max(int(y0 - grown_y), 0), height - 1)
    right = min(max(int(np.ceil(x1 + grown_x)), left + 1), width)
    bottom = min(max(int(np.ceil(y1 + grown_y)), top + 1), height)
    part = image[None, :, top:bottom, left:right].float()
    shown: Tensor = F.interpolate(part, (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
    return shown


def build_crop_stream(cfg: CfgNode, model: Any, seed: int) -> TrainStream:
    """The stream "Crops" of DATASETS.TRAIN: one sample for each box with a word of training.

    Raises: ValueError as for detectors; for no such box, and for a word of a single box.
    """
    require("DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN, ("TrainingSampler",))
    records, labels = records_and_labels(cfg, model)
    crops = [
        {**_size_of(record), "box": _corners(each), "label": labels[each["category_id"]]}
        for record in records
        for each in record["annotations"]
        if not each.get("iscrowd") and labels[each["category_id"]] >= 0
    ]
    _refuse_words_of_one_box(crops, model.train_vocabulary.names, ", ".join(cfg.DATASETS.TRAIN))
    sampler = TrainingSampler(len(crops), seed=seed)
    workers = cfg.DATALOADER.NUM_WORKERS
    return TrainStream(crops, CropMapper(cfg), sampler, batch_size_per_worker(cfg), seed, workers)


def _size_of(record: Record) -> Record:
    return {key: record[key] for key in ("file_name", "width", "height") if key in record}


def _corners(annotation: dict[str, Any]) -> list[float]:
    corners: list[float] = BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
    return corners


def _refuse_words_of_one_box(crops: list[Record], names: tuple[str, ...], datasets: str) -> None:
    if not crops:
        raise ValueError(
            f"No box of {datasets} (DATASETS.TRAIN) has a word of training: there is nothing to learn from."
        )
    single = [names[label] for label, number in Counter(crop["label"] for crop in crops).items() if number == 1]
    if single:
        raise ValueError(
            f'{datasets} (DATASETS.TRAIN) has one box of "{single[0]}" ({len(single)} such words): nothing can be '
            "learnt of it. Add boxes, or leave the word out of the vocabulary."
        )


class CropMapper:
    """A record -> "image" (3, side, side) in [0, 255], "label", "file_name". Size and place of the box vary, and half
    of the crops are flipped where INPUT.RANDOM_FLIP is "horizontal"."""

    def __init__(self, cfg: CfgNode) -> None:
        own = cfg.MODEL.BACKBONE_KD
        self.side, self.context, self.jitter = own.CROP_SIDE, own.CROP_CONTEXT, own.CROP_JITTER
        self.order, self.flips = cfg.INPUT.FORMAT, cfg.INPUT.RANDOM_FLIP == "horizontal"

    def __call__(self, record: Record) -> dict[str, Any]:
        """Raises UnreadableImage; ValueError for an image of another size than the record's."""
        pixels = read_image(record["file_name"], self.order)
        check_image_size(record, pixels)
        crop = cut(to_tensor(pixels), self._moved(torch.tensor(record["box"])), self.side, self.context)
        if self.flips and np.random.rand() < 0.5:
            crop = crop.flip(-1)
        return {"image": crop, "label": record["label"], "file_name": record["file_name"]}

    def _moved(self, box_xyxy: Tensor) -> Tensor:
        noise = torch.from_numpy(np.random.uniform(-self.jitter, self.jitter, 4)).float()
        size = box_xyxy[2:] - box_xyxy[:2]
        centre, size = (box_xyxy[2:] + box_xyxy[:2]) / 2 + noise[:2] * size / 2, size * (1 + noise[2:])
        return torch.cat([centre - size / 2, centre + size / 2])
