"""A shard: the regions of some images in one safetensors file. I images, N regions of all of them, E embedding width.

Tensors: image_ids (I,) int64; sizes (I, 2) int32, height and width; offsets (I + 1,) int64, where the regions of each
image begin; boxes (N, 4) float32; objectness (N,) float32; embeddings (N, E) float16. In its header: version, settings,
number of the shard, file names of the images.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dk_detr.data.bank.regions import BankImage, StoredRegions
from dk_detr.utils import atomic_file

VERSION = 1
_KEY = "dk_detr embedding bank"
_REGIONS = ("boxes", "objectness", "embeddings")
DTYPES = {
    "image_ids": torch.int64, "sizes": torch.int32, "offsets": torch.int64, "boxes": torch.float32,
    "objectness": torch.float32, "embeddings": torch.float16,
}  # fmt: skip


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"shard-{number:05d}.safetensors"


def write_shard(
    path: str | os.PathLike[str],
    settings: dict[str, Any],
    number: int,
    images: Sequence[BankImage],
    regions: Sequence[StoredRegions],
) -> None:
    """Write the regions of each image, whole or not at all; the same content gives the same bytes."""
    content = {
        "version": VERSION, "settings": settings, "shard": number, "file_names": [image.file_name for image in images],
    }  # fmt: skip
    counts = torch.tensor([0, *(len(of_image) for of_image in regions)])
    columns = {
        "image_ids": torch.tensor([image.image_id for image in images]),
        "sizes": torch.tensor([(image.height, image.width) for image in images]),
        "offsets": counts.cumsum(0),
        "boxes": torch.cat([of_image.boxes_xyxy_abs for of_image in regions]),
        "objectness": torch.cat([of_image.objectness for of_image in regions]),
        "embeddings": torch.cat([of_image.embeddings for of_image in regions]),
    }
    tensors = {name: columns[name].to(dtype).contiguous() for name, dtype in DTYPES.items()}
    with atomic_file(path) as part:
        save_file(tensors, part, {_KEY: json.dumps(content, sort_keys=True)})


class Shard:
    """Reads a shard, mapped into memory: only what is asked for is loaded, and processes share it.

    Raises: FileNotFoundError; ValueError for a file that is cut short, no shard, or of another version.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no shard {path}.")
        try:
            self._file: Any = safe_open(path, framework="pt")
            content = json.loads((self._file.metadata() or {})[_KEY])
            self.version: int = content["version"]
            self.settings: dict[str, Any] = content["settings"]
            self.number: int = content["shard"]
            self._file_names: list[str] = content["file_names"]
            self.image_ids, self.offsets = self._file.get_tensor("image_ids"), self._file.get_tensor("offsets")
            self.sizes: Tensor = self._file.get_tensor("sizes")
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ValueError(f"{path} is no whole shard of an embedding bank ({error}).") from error

    def __len__(self) -> int:
        return len(self.image_ids)

    def images(self) -> Iterator[BankImage]:
        """The images in their order."""
        for number, name, (height, width) in zip(self.image_ids.tolist(), self._file_names, self.sizes.tolist()):
            yield BankImage(number, name, height, width)

    def regions(self, row: int) -> StoredRegions:
        """The regions of the image at `row`."""
        start, stop = self.offsets[row : row + 2].tolist()
        return StoredRegions(*(self._file.get_slice(name)[start:stop] for name in _REGIONS))
