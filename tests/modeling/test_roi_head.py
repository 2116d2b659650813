"""What an ROI head reads from the memory. B images, Q queries, C channels, E text width."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from dk_detr.modeling import ROIHead
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, WIDTH, fixed_seed, random

BOXES = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.75, 0.5, 0.25, 0.5]]])  # cxcywh


def head() -> ROIHead:
    with fixed_seed():
        return ROIHead(CHANNELS, WIDTH)


def memory_of(level: Tensor, valid_size: Tensor | None = None) -> Memory:
    return replace(Memory.from_pyramid(FeaturePyramid((level, level[..., ::2, ::2]))), valid_size=valid_size)


def test_it_sees_what_lies_in_a_box() -> None:
    made, level = head(), random(1, CHANNELS, 16, 16)
    seen = made.of_queries(BOXES, memory_of(level))
    assert seen.shape == (1, 2, WIDTH)
    below = level.clone()
    below[..., 9:, :] += 1.0  # of the first box, and of the cells that its edge is interpolated from
    changed = made.of_queries(BOXES, memory_of(below))
    assert torch.equal(changed[0, 0], seen[0, 0]) and not torch.allclose(changed[0, 1], seen[0, 1])


def test_it_sees_where_things_lie_in_the_box() -> None:
    made, level = head(), random(1, CHANNELS, 16, 16)
    mirrored = level.clone()
    mirrored[..., :8, :8] = level[..., :8, :8].flip(-1)
    seen = [made.of_queries(BOXES, memory_of(each))[0, 0] for each in (level, mirrored)]
    assert not torch.allclose(*seen, atol=1e-2)


def test_padding_moves_no_box() -> None:
    made, level = head(), random(1, CHANNELS, 16, 16)
    padded = F.pad(level, (0, 8, 0, 4), value=3.0)
    alone, beside = memory_of(level), memory_of(padded, torch.tensor([[[16, 16], [8, 8]]]))
    box = BOXES[:, :1]  # away from the padding
    assert_close(made.of_queries(box, alone), made.of_queries(box, beside))


def test_each_box_is_read_from_its_image() -> None:
    made, levels = head(), random(2, CHANNELS, 16, 16)
    memory = memory_of(levels)
    both = made.of_queries(BOXES.expand(2, -1, -1), memory)
    assert_close(made(BOXES[0], torch.tensor([1, 0]), memory), torch.stack([both[1, 0], both[0, 1]]))
    assert_close(both[1:], made.of_queries(BOXES, memory_of(levels[1:])))


def test_no_boxes_are_no_embeddings() -> None:
    none = torch.zeros(0, dtype=torch.long)
    seen = head()(torch.zeros(0, 4), none, memory_of(random(1, CHANNELS, 16, 16)))
    assert seen.shape == (0, WIDTH) and seen.requires_grad


def test_autocast_sees_nearly_the_same() -> None:
    made, level = head(), random(1, CHANNELS, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = made.of_queries(BOXES, memory_of(level))
    assert_close(half.float(), made.of_queries(BOXES, memory_of(level)), atol=0.1, rtol=0.1)
