"""What companions know of their region. B images, Q queries, C channels."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.testing import assert_close

from dk_detr.modeling.companions import RegionContent
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, fixed_seed, random

BOXES = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.25, 0.5]]])  # cxcywh


def content() -> RegionContent:
    with fixed_seed():
        return RegionContent(CHANNELS)


def memory_of(level: Tensor, valid_size: Tensor | None = None) -> Memory:
    return replace(Memory.from_pyramid(FeaturePyramid((level, level[..., ::2, ::2]))), valid_size=valid_size)


def test_a_region_is_what_lies_in_its_box() -> None:
    made, level = content(), random(1, CHANNELS, 16, 16)
    seen = made(BOXES, memory_of(level))
    assert seen.shape == (1, 2, CHANNELS)
    outside = level.clone()
    outside[..., 9:, :] += 1.0  # below the first box, and the cells that its edge is interpolated from
    changed = made(BOXES, memory_of(outside))
    assert torch.equal(changed[0, 0], seen[0, 0]) and not torch.allclose(changed[0, 1], seen[0, 1])


def test_where_things_lie_in_the_box_matters() -> None:
    made, level = content(), random(1, CHANNELS, 16, 16)
    mirrored = level.clone()
    mirrored[..., :8, :8] = level[..., :8, :8].flip(-1)
    first = [made(BOXES, memory_of(each))[0, 0] for each in (level, mirrored)]
    assert not torch.allclose(*first, atol=1e-2)


def test_padding_moves_no_region() -> None:
    made, level = content(), random(1, CHANNELS, 16, 16)
    padded = torch.nn.functional.pad(level, (0, 8, 0, 4), value=3.0)
    alone, beside = memory_of(level), memory_of(padded, torch.tensor([[[16, 16], [8, 8]]]))
    box = BOXES[:, :1]  # away from the padding
    assert_close(made(box, alone), made(box, beside))


def test_half_floats_are_seen_alike() -> None:
    made, level = content(), random(1, CHANNELS, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made(BOXES, memory_of(level))
    assert_close(half.float(), made(BOXES, memory_of(level)), atol=0.1, rtol=0.1)
