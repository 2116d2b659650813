"""FeaturePyramid and Memory: which cells and tokens show the image, against masks resized pixel by pixel."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.structures import FeaturePyramid, Memory


def levels(shapes: list[tuple[int, int]], images: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(images, 3, h, w, generator=generator) for h, w in shapes]


def shown(size: tuple[int, int], padded: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """(h, w) bool: a mask of the pixels of the image, resized to a level by nearest neighbour as DETR does."""
    mask = torch.zeros(1, 1, *padded)
    mask[..., : size[0], : size[1]] = 1
    return F.interpolate(mask, size=shape, mode="nearest")[0, 0].bool()


@pytest.mark.parametrize("size", [(1, 1), (17, 31), (30, 50), (32, 64), (33, 65), (63, 40), (64, 1), (8, 96)])
def test_valid_cells_are_those_of_the_resized_pixel_mask(size: tuple[int, int]) -> None:
    padded, shapes = (64, 96), [(16, 24), (8, 12), (4, 6), (7, 5), (1, 1)]
    pyramid = FeaturePyramid.from_padded(levels(shapes), [size], padded)
    memory = Memory.from_pyramid(pyramid)
    for level, shape in enumerate(shapes):
        x, y = pyramid.valid_size[0, level].tolist()
        wanted = torch.zeros(shape, dtype=torch.bool)
        wanted[:y, :x] = True
        assert torch.equal(wanted, shown(size, padded, shape)), shape
    wanted_padding = torch.cat([~shown(size, padded, shape).flatten() for shape in shapes])
    assert torch.equal(memory.padding[0], wanted_padding)


def test_every_level_shows_something_of_the_smallest_image() -> None:
    pyramid = FeaturePyramid.from_padded(levels([(16, 16), (1, 1)]), [(1, 1)], (512, 512))
    assert (pyramid.valid_size == 1).all()


def test_a_batch_without_padding_has_no_masks() -> None:
    pyramid = FeaturePyramid.from_padded(levels([(4, 4)], images=2), [(16, 16), (16, 16)], (16, 16))
    memory = Memory.from_pyramid(pyramid)
    assert pyramid.valid_size is None and memory.padding is None and memory.valid_ratios is None


def test_one_padded_image_is_enough_for_masks() -> None:
    pyramid = FeaturePyramid.from_padded(levels([(4, 4)], images=2), [(16, 16), (16, 9)], (16, 16))
    memory = Memory.from_pyramid(pyramid)
    assert pyramid.valid_size.tolist() == [[[4, 4]], [[3, 4]]]
    assert memory.valid_ratios.tolist() == [[[1.0, 1.0]], [[0.75, 1.0]]]
    assert memory.padding[1].view(4, 4).tolist() == [[False, False, False, True]] * 4


def test_tokens_are_the_levels_row_by_row() -> None:
    maps = levels([(2, 3), (1, 2)], images=2)
    memory = Memory.from_pyramid(FeaturePyramid(tuple(maps)))
    assert memory.tokens.shape == (2, 8, 3) and memory.shapes == ((2, 3), (1, 2))
    assert torch.equal(memory.tokens[1, 1 * 3 + 2], maps[0][1, :, 1, 2])
    assert torch.equal(memory.tokens[0, 6 + 1], maps[1][0, :, 0, 1])


def test_stacked_pyramids_keep_each_image_and_mark_the_rest() -> None:
    wide, tall = levels([(2, 4), (1, 2)]), levels([(4, 3), (2, 2)])
    stacked = FeaturePyramid.stack([FeaturePyramid(tuple(wide)), FeaturePyramid(tuple(tall))])
    assert stacked.shapes == ((4, 4), (2, 2))
    assert stacked.valid_size.tolist() == [[[4, 2], [2, 1]], [[3, 4], [2, 2]]]
    assert torch.equal(stacked.levels[0][0, :, :2, :4], wide[0][0])
    assert torch.equal(stacked.levels[0][1, :, :4, :3], tall[0][0])
    padding = Memory.from_pyramid(stacked).padding
    assert not stacked.levels[0].permute(0, 2, 3, 1).flatten(1, 2)[padding[:, :16]].any()
    assert padding[0].tolist() == [False] * 8 + [True] * 8 + [False, False, True, True]


def test_a_pyramid_alone_is_its_own_stack() -> None:
    pyramid = FeaturePyramid(tuple(levels([(2, 4)])))
    assert FeaturePyramid.stack([pyramid]) is pyramid


def test_the_backbones_maps_are_those_of_a_batch_when_they_are_asked_for() -> None:
    """Of single images of different size, padded with nothing on the right and below."""
    maps = [torch.full((1, 2, 4, 3), 1.0), torch.full((1, 2, 2, 5), 2.0)]
    single = [
        FeaturePyramid.from_padded([x[..., ::2, ::2]], [x.shape[-2:]], tuple(x.shape[-2:]), {"res2": x}) for x in maps
    ]
    stacked = FeaturePyramid.stack(single)
    assert list(stacked.backbone) == ["res2"] and len(stacked.backbone) == 1
    found = stacked.backbone["res2"]
    assert found.shape == (2, 2, 4, 5)
    assert (found[0, :, :, :3] == 1).all() and not found[0, :, :, 3:].any()
    assert (found[1, :, :2] == 2).all() and not found[1, :, 2:].any()
    assert stacked.image_sizes == Memory.from_pyramid(stacked).image_sizes == ((4, 3), (2, 5))
