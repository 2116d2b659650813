"""What a bank is asked to hold, and what its contents follow from, as its manifest says it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dk_detr.data.bank import BankImage, images_fingerprint
from dk_detr.language import Clip


@dataclass(frozen=True)
class Selection:
    """Which boxes of an image are kept.

    Attributes:
        regions: of an image, at most. nms: boxes that overlap a better one by more than this IoU are dropped.
        min_side: pixels of the image; shorter boxes show too little.
        candidates: boxes of an image that are looked at, the best first.
    """

    regions: int = 300
    nms: float = 0.7
    min_side: float = 4.0
    candidates: int = 2000

    def __post_init__(self) -> None:
        if self.regions < 1:
            raise ValueError(f"--regions must be at least 1, got {self.regions}.")
        if not 0 < self.nms <= 1:
            raise ValueError(f"--nms is an IoU above 0 and at most 1, got {self.nms}.")


@dataclass(frozen=True)
class BankRequest:
    """A bank that is asked for.

    Attributes:
        output: its folder. proposals: a file of boxes; None for those of the first stage of MODEL.WEIGHTS.
        selection: which of an image's boxes are kept. crop_scales: of a region's sides; what CLIP sees at each is
            averaged. images_per_shard: in each file of the folder.
    """

    output: str
    proposals: str | None = None
    selection: Selection = field(default_factory=Selection)
    crop_scales: tuple[float, ...] = (1.0, 1.5)
    images_per_shard: int = 100

    def __post_init__(self) -> None:
        if self.images_per_shard < 1:
            raise ValueError(f"--images-per-shard must be at least 1, got {self.images_per_shard}.")
        if os.path.exists(self.output) and not os.path.isdir(self.output):
            raise ValueError(f"--output {self.output} is a file; name a folder.")


def crop_settings(clip: Clip, scales: Sequence[float], dtype: Any) -> dict[str, Any]:
    """How regions are shown to CLIP."""
    return {"scales": list(scales), "side": clip.image_size, "dtype": str(dtype).removeprefix("torch.")}


def data_settings(names: Sequence[str], images: Sequence[BankImage]) -> dict[str, Any]:
    """Of which images the bank is."""
    return {"names": list(names), "images": len(images), "fingerprint": images_fingerprint(images)}
