"""Reads the images of a data set as they are on disk, and as the detector wants them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from torch.utils.data import DataLoader, Dataset

from dk_detr.data.images import read_image, to_tensor
from dk_detr.data.resizing import evaluation_resize

KEYS = ("file_name", "image_id", "height", "width")  # of a record, what a sample keeps


class ReadImages:
    """A record -> a sample: the record without annotations, "pixels" (3, h, w) uint8 as on disk, turned as EXIF says,
    and, for a detector, "image", the same resized as in evaluation. Both in INPUT.FORMAT.

    Raises: UnreadableImage; ValueError naming an image of another size than its record says.
    """

    def __init__(self, cfg: CfgNode, for_detector: bool) -> None:
        self.format = cfg.INPUT.FORMAT
        self.resize = evaluation_resize(cfg) if for_detector else None

    def __call__(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Read one."""
        image = read_image(record["file_name"], self.format)
        utils.check_image_size(dict(record), image)
        sample = {key: record[key] for key in KEYS}
        sample["pixels"] = to_tensor(image)
        if self.resize is not None:
            resized = T.AugInput(image)
            self.resize(resized)
            sample["image"] = to_tensor(resized.image)
        return sample


class _Records(Dataset[dict[str, Any]]):
    def __init__(self, records: Sequence[Mapping[str, Any]], read: ReadImages) -> None:
        self.records, self.read = records, read

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.read(dict(self.records[index]))


def samples_of(cfg: CfgNode, records: Sequence[Mapping[str, Any]], for_detector: bool) -> Iterator[dict[str, Any]]:
    """The samples in the order of the records, read ahead by DATALOADER.NUM_WORKERS processes.

    Raises: UnreadableImage; ValueError naming an image of another size than its record says.
    """
    read = ReadImages(cfg, for_detector)
    loader: Any = DataLoader(_Records(records, read), batch_size=None, num_workers=cfg.DATALOADER.NUM_WORKERS)
    yield from loader
