"""Regions and RegionKnowledge: the question to a teacher and its answer. N regions, E embedding width."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Regions:
    """Places in a batch of images.

    Attributes:
        image: (N,) index of the image.
        query: (N,) index of the query that looks there.
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
