"""FeaturePyramid and Memory: what is seen of the images, before and after the encoder.

B images, C channels, L levels, S tokens (all levels, row by row).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import grid_of_cells

Shapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class FeaturePyramid:
    """Feature maps of a batch, and how much of each belongs to the image.

    Attributes:
        levels: L maps (B, C, h, w), the finest first.
        valid_size: (B, L, 2) cells (x, y) that show the image; the rest is padding. None where nothing is padded.
        fewest: cells of the smallest image; a Python int, so that nobody waits for the device.
        backbone: the backbone's own maps by name, (B, C, h, w), for parts that want another width or a finer one.
        image_sizes: (h, w) of the images in pixels, without padding.
    """

    levels: tuple[Tensor, ...]
    valid_size: Tensor | None = None
    fewest: int = 0
    backbone: Mapping[str, Tensor] = field(default_factory=dict)
    image_sizes: Shapes = ()

    @property
    def shapes(self) -> Shapes:
        """(h, w) of each level."""
        return tuple((level.shape[-2], level.shape[-1]) for level in self.levels)

    @staticmethod
    def from_padded(
        levels: Sequence[Tensor],
        image_sizes: Sequence[tuple[int, int]],
        padded: tuple[int, int],
        backbone: Mapping[str, Tensor] | None = None,
    ) -> "FeaturePyramid":
        """Levels computed from images (h, w) that were padded on the right and below to one size (H, W)."""
        maps, pixels = backbone or {}, tuple((h, w) for h, w in image_sizes)
        if all(tuple(size) == tuple(padded) for size in image_sizes):
            fewest = sum(level[0, 0].numel() for level in levels)
            return FeaturePyramid(tuple(levels), fewest=fewest, backbone=maps, image_sizes=pixels)
        valid_size = valid_cells(levels, image_sizes, padded)
        return FeaturePyramid(tuple(levels), valid_size.to(levels[0].device), _fewest(valid_size), maps, pixels)

    @staticmethod
    def stack(pyramids: Sequence["FeaturePyramid"]) -> "FeaturePyramid":
        """One batch from pyramids of single images of different size, none of which saw another's padding."""
        if len(pyramids) == 1:
            return pyramids[0]
        levels = [_padded_to_one_size(maps) for maps in zip(*(pyramid.levels for pyramid in pyramids))]
        backbone = _StackedMaps([pyramid.backbone for pyramid in pyramids])
        valid_size = torch.tensor([[(w, h) for h, w in pyramid.shapes] for pyramid in pyramids])
        pixels = tuple(size for pyramid in pyramids for size in pyramid.image_sizes)
        return FeaturePyramid(tuple(levels), valid_size.to(levels[0].device), _fewest(valid_size), backbone, pixels)


class _StackedMaps(Mapping[str, Tensor]):
    """Maps of single images as those of a batch, padded when they are asked for: few parts read any."""

    def __init__(self, single: Sequence[Mapping[str, Tensor]]) -> None:
        self._single = single

    def __getitem__(self, name: str) -> Tensor:
        return _padded_to_one_size([maps[name] for maps in self._single])

    def __iter__(self) -> Iterator[str]:
        return iter(self._single[0])

    def __len__(self) -> int:
        return len(self._single[0])


def valid_cells(
    levels: Sequence[Tensor], image_sizes: Sequence[tuple[int, int]], padded: tuple[int, int]
) -> Tensor:
    """(B, L, 2) cells (x, y) of each level that show the image: see `FeaturePyramid.from_padded`. A cell belongs to the
    image when its first pixel does: the rule of masks resized by nearest neighbour."""
    shapes = torch.tensor([(level.shape[-1], level.shape[-2]) for level in levels])
    sizes = torch.tensor([(w, h) for h, w in image_sizes])
    padded_xy = torch.tensor([padded[1], padded[0]])
    return (sizes[:, None] * shapes + padded_xy - 1) // padded_xy


def _padded_to_one_size(maps: Sequence[Tensor]) -> Tensor:
    h, w = (max(m.shape[axis] for m in maps) for axis in (-2, -1))
    return torch.cat([F.pad(m, (0, w - m.shape[-1], 0, h - m.shape[-2])) for m in maps])


def _fewest(valid_size: Tensor) -> int:
    return int(valid_size.prod(-1).sum(1).min())


@dataclass(frozen=True)
class Memory:
    """The tokens that queries look at.

    Attributes:
        tokens: (B, S, C).
        shapes: (h, w) of each level; S is the sum of h·w.
        centers: (B, S, 2) centre (x, y) of each token's cell in [0, 1] of the unpadded image; B is 1 without padding.
        valid_size: (B, L, 2) cells (x, y) of each level that show the image; None where nothing is padded.
        padding: (B, S) bool, True where a token is padding; None where nothing is padded.
        valid_ratios: (B, L, 2) `valid_size` as a share of the level; None where nothing is padded.
        fewest: tokens of the smallest image; a Python int, so that nobody waits for the device.
        position: (B, S, C) codes of the tokens' places, or (1, S, C) without padding: what the encoder was told.
        image_sizes: (h, w) of the images in pixels, without padding.
    """

    tokens: Tensor
    shapes: Shapes
    centers: Tensor
    valid_size: Tensor | None = None
    padding: Tensor | None = None
    valid_ratios: Tensor | None = None
    fewest: int = 0
    position: Tensor | None = None
    image_sizes: Shapes = ()

    @staticmethod
    def from_pyramid(pyramid: FeaturePyramid) -> "Memory":
        """The levels as one sequence of tokens."""
        tokens = torch.cat([level.flatten(2).transpose(1, 2) for level in pyramid.levels], dim=1)
        shapes, valid_size = pyramid.shapes, pyramid.valid_size
        grid = grid_of_cells(shapes, tokens.device)
        memory = Memory(
            tokens, shapes, grid.centers / grid.sides[:, grid.level], fewest=pyramid.fewest,
            image_sizes=pyramid.image_sizes,
        )  # fmt: skip
        if valid_size is None:
            return memory
        extent = valid_size[:, grid.level]
        padding = (grid.centers > extent).any(-1)
        centers, ratios = grid.centers / extent, valid_size / grid.sides
        return replace(memory, centers=centers, valid_size=valid_size, padding=padding, valid_ratios=ratios)
