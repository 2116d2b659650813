"""Reads the images of a data set as they are on disk, and as the detector wants them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dk_detr.data.mapper import NamedErrors

KEYS = ("file_name", "image_id", "height", "width")  # of a record, what a sample keeps


class ReadImages:
    """A record -> a sample: the record without annotations, "pixels" (3, h, w) uint8 as on disk, turned as EXIF says,
    and, for a detector, "image", the same resized as in evaluation. Both in INPUT.FORMAT.

    Raises: ValueError naming an image of another size than its record says.
    """

    def __init__(self, cfg: CfgNode, for_detector: bool) -> None:
        self.format = cfg.INPUT.FORMAT
        self.resize = T.AugmentationList(utils.build_augmentation(cfg, is_train=False)) if for_detector else None

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one."""
        image = utils.read_image(record["file_name"], format=self.format)
        utils.check_image_size(dict(record), image)
        sample = {key: record[key] for key in KEYS}
        sample["pixels"] = _as_tensor(image)
        if self.resize is not None:
            resized = T.AugInput(image)
            self.resize(resized)
            sample["image"] = _as_tensor(resized.image)
        return sample


def _as_tensor(image: np.ndarray) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


class _Records(Dataset[dict[str, Any]]):
    def __init__(self, records: Sequence[Mapping[str, Any]], read: NamedErrors) -> None:
        self.records, self.read = records, read

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(dict(self.records[index]))


def samples_of(cfg: CfgNode, records: Sequence[Mapping[str, Any]], for_detector: bool) -> Iterator[dict[str, Any]]:
    """The samples in the order of the records, read ahead by DATALOADER.NUM_WORKERS processes.

    Raises: FileNotFoundError, ValueError; each names the image.
    """
    read: Any = NamedErrors(ReadImages(cfg, for_detector))
    yield from DataLoader(_Records(records, read), batch_size=None, num_workers=cfg.DATALOADER.NUM_WORKERS)
