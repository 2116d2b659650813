"""What the contents of a bank follow from, as its manifest says it."""

from collections.abc import Sequence
from dataclasses import dataclass
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


def crop_settings(clip: Clip, scales: Sequence[float], dtype: Any) -> dict[str, Any]:
    """How regions are shown to CLIP."""
    return {"scales": list(scales), "side": clip.image_size, "dtype": str(dtype).removeprefix("torch.")}


def data_settings(names: Sequence[str], images: Sequence[BankImage]) -> dict[str, Any]:
    """Of which images the bank is."""
    return {"names": list(names), "images": len(images), "fingerprint": images_fingerprint(images)}
