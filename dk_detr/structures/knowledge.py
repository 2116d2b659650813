"""The question to a teacher and its answer. B images, M candidates, N regions, E embedding width."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """Boxes of each image that a teacher could be asked about, the best first.

    Attributes:
        boxes: (B, M, 4) cxcywh in [0, 1] of the unpadded image.
        objectness: (B, M) logits, -inf where an image has fewer.
        embeddings: (B, M, E) what a teacher saw there; None where it has not looked yet.
    """

    boxes: Tensor
    objectness: Tensor
    embeddings: Tensor | None = None


@dataclass(frozen=True)
class TeacherInput:
    """What a teacher is shown.

    Attributes:
        pixels: (B, 3, H, W) normalised, padded network input. image_sizes: (h, w) of the images in it.
        stored: regions that came with the images; None where none did.
    """

    pixels: Tensor
    image_sizes: list[tuple[int, int]]
    stored: Candidates | None = None


@dataclass(frozen=True)
class Regions:
    """Places in a batch of images.

    Attributes:
        image: (N,) index of the image, ascending.
        query: (N,) index of the query, or of the candidate, that looks there.
        boxes: (N, 4) cxcywh in [0, 1] of the unpadded image.
    """

    image: Tensor
    query: Tensor
    boxes: Tensor

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class RegionKnowledge:
    """What a teacher sees in regions.

    Attributes:
        regions: the regions that were asked about.
        embeddings: (N, E) unit rows, without gradient.
    """

    regions: Regions
    embeddings: Tensor
