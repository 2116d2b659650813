"""What a bank holds of an image. N regions, E embedding width."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class BankImage:
    """An image by what can be compared: its file name is without folders, which differ from machine to machine."""

    image_id: int
    file_name: str
    height: int
    width: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> BankImage:
        """The image of a record in Detectron2's format. Raises ValueError for an id that is no number."""
        name, number = os.path.basename(record["file_name"]), record["image_id"]
        if not isinstance(number, int):
            raise ValueError(f'Image {name} has the id "{number}"; an embedding bank needs whole numbers.')  # noqa: TRY004
        return cls(number, name, record["height"], record["width"])

    def __str__(self) -> str:
        return f"{self.file_name} (id {self.image_id})"


@dataclass(frozen=True)
class StoredRegions:
    """Regions of one image, the best first.

    Attributes:
        boxes_xyxy_abs: (N, 4) float32 in pixels of the image as it is on disk.
        objectness: (N,) float32, descending: logits, or the scores of a proposal file.
        embeddings: (N, E) float16 unit rows.
    """

    boxes_xyxy_abs: Tensor
    objectness: Tensor
    embeddings: Tensor

    def __len__(self) -> int:
        return len(self.objectness)

    def best(self, count: int) -> StoredRegions:
        """The first `count`, or all there are."""
        return StoredRegions(self.boxes_xyxy_abs[:count], self.objectness[:count], self.embeddings[:count])
