"""The dynamic layer of masks, its map and its frame, against what can be counted by hand. N instances, S cells."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from dk_detr.criterion import MaskCriterion
from dk_detr.criterion.masks import soft_dice
from dk_detr.layers import aligned_upsample, dynamic_attention, resize
from dk_detr.layers.dynamic_attention import NUM_WEIGHTS
from dk_detr.modeling.masks.dynamic import relative_codes
from dk_detr.modeling.masks.frame import MaskFrame, frames_of, soft_targets, valid_pixels
from dk_detr.structures import Memory
from tests.model_fixtures import random

SHAPE = (5, 7)
S = SHAPE[0] * SHAPE[1]
OFFSETS, OFFSET_BIAS = slice(0, 256), slice(256, 288)
OUTPUT, OUTPUT_BIAS = slice(432, 440), 440


def weights(number: int = 1, seed: int = 1) -> Tensor:
    return random(number, NUM_WEIGHTS, seed=seed)


def drawn(theta: Tensor, values: Tensor, codes: Tensor | None = None) -> Tensor:
    """(N, h, w)."""
    return dynamic_attention(values, values if codes is None else codes, theta, SHAPE).unflatten(1, SHAPE)


def test_weights_are_those_of_the_release() -> None:
    assert NUM_WEIGHTS == 441


def test_without_weights_the_bias_is_everywhere() -> None:
    theta = torch.zeros(2, NUM_WEIGHTS)
    theta[:, OUTPUT_BIAS] = torch.tensor([0.7, -2.0])
    assert_close(drawn(theta, random(2, S, 8)), torch.tensor([0.7, -2.0])[:, None, None].expand(2, *SHAPE))


def test_without_offsets_a_cell_sees_itself() -> None:
    theta, values = weights(), random(1, S, 8)
    theta[:, OFFSETS] = theta[:, OFFSET_BIAS] = 0
    wanted = values.relu() @ theta[0, OUTPUT] + theta[0, OUTPUT_BIAS]
    assert_close(drawn(theta, values), wanted.unflatten(1, SHAPE), atol=1e-5, rtol=0)


@pytest.mark.parametrize("moved", [(1, 0), (-2, 3)])
def test_whole_offsets_move_the_map_and_beyond_it_is_nothing(moved: tuple[int, int]) -> None:
    (dx, dy), theta, values = moved, weights(), random(1, S, 8)
    theta[:, OFFSETS] = 0
    theta[:, OFFSET_BIAS] = torch.tensor(moved, dtype=torch.float32).repeat(16)
    there = torch.zeros(1, *SHAPE, 8)
    h, w = SHAPE
    for row in range(max(0, -dy), min(h, h - dy)):
        for column in range(max(0, -dx), min(w, w - dx)):
            there[0, row, column] = values.unflatten(1, SHAPE)[0, row + dy, column + dx]
    wanted = there.relu() @ theta[0, OUTPUT] + theta[0, OUTPUT_BIAS]
    assert_close(drawn(theta, values), wanted, atol=1e-5, rtol=0)


def test_heads_are_alike() -> None:
    """Their order does not matter, if the channels of the values follow."""
    theta, values, codes = weights(), random(1, S, 8), random(1, S, 8, seed=2)
    order = torch.tensor([2, 0, 3, 1])
    parts = [part.unflatten(1, (4, -1))[:, order].flatten(1) for part in theta[:, :440].split([256, 32, 128, 16, 8], 1)]
    swapped = torch.cat([*parts, theta[:, 440:]], dim=1)
    moved = values.unflatten(2, (4, 2))[:, :, order].flatten(2)
    assert_close(drawn(swapped, moved, codes), drawn(theta, values, codes), atol=1e-5, rtol=0)


def test_instances_together_are_instances_alone() -> None:
    theta, values, codes = weights(3), random(3, S, 8), random(3, S, 8, seed=2)
    alone = torch.cat([drawn(theta[i, None], values[i, None], codes[i, None]) for i in range(3)])
    assert_close(drawn(theta, values, codes), alone, atol=1e-5, rtol=0)


# ---- where cells lie ----


def test_an_object_one_cell_further_sees_the_map_moved_by_one() -> None:
    centers = torch.tensor([[0.3, 0.4], [0.3 + 1 / SHAPE[1], 0.4], [0.3, 0.4 + 1 / SHAPE[0]]])
    code, right, below = relative_codes(centers, SHAPE).unflatten(1, SHAPE)
    assert_close(right[:, 1:], code[:, :-1], atol=1e-5, rtol=0)
    assert_close(below[1:], code[:-1], atol=1e-5, rtol=0)


def test_padding_changes_no_cell_of_the_image() -> None:
    h, w = SHAPE
    center = torch.tensor([[0.3, 0.4]])
    alone = relative_codes(center, SHAPE).unflatten(1, SHAPE)
    padded = relative_codes(center, (h + 2, w + 3), torch.tensor([[w, h]])).unflatten(1, (h + 2, w + 3))
    assert torch.equal(padded[:, :h, :w], alone)


def test_in_padding_the_count_stays_or_is_nothing() -> None:
    """y of a row below the image is that of its last row; of a column beside it, that of none. x the other way."""
    h, w = SHAPE
    center = torch.tensor([[0.3, 0.4]])
    (code,) = relative_codes(center, (h + 2, w + 3), torch.tensor([[w, h]])).unflatten(1, (h + 2, w + 3))
    y, x = code.split(4, dim=-1)
    assert torch.equal(y[h:, :w], y[h - 1, :w].expand(2, -1, -1)) and torch.equal(
        x[:h, w:], x[:h, w - 1, None].expand(-1, 3, -1)
    )
    nothing = torch.tensor([[-0.4], [-0.3]]) * 2 * torch.pi
    for found, angle in ((y[:, w:], nothing[0]), (x[h:], nothing[1])):
        wanted = torch.cat([angle.sin(), angle.cos(), (angle / 100).sin(), (angle / 100).cos()])
        assert_close(found, wanted.expand_as(found), atol=1e-5, rtol=0)


# ---- resizing ----


def test_a_ramp_stays_a_ramp_and_a_constant_itself() -> None:
    ramp = torch.arange(6.0).expand(1, 4, 6)
    fine = aligned_upsample(ramp, 4)
    assert fine.shape == (1, 16, 24)
    assert_close(fine[0, 0, 2:23], torch.arange(21) / 4)
    assert_close(aligned_upsample(torch.full((1, 3, 3), 0.4), 4), torch.full((1, 12, 12), 0.4))


def test_a_resize_to_the_same_size_changes_nothing() -> None:
    maps = random(2, 3, 4)
    assert resize(maps, (3, 4)) is maps
    assert_close(
        resize(resize(maps, (5, 7)), (9, 13))[:, [0, 0, -1, -1], [0, -1, 0, -1]],
        maps[:, [0, 0, -1, -1], [0, -1, 0, -1]],
    )


@pytest.mark.parametrize("canvas", [(64, 64), (48, 64)])
def test_a_mask_of_the_whole_image_covers_it_exactly(canvas: tuple[int, int]) -> None:
    cells = (canvas[0] // 8, canvas[1] // 8)
    frame = MaskFrame(cells, canvas, (48, 64))
    logits = torch.full((1, 8, 8), 5.0)
    assert frame.to_pixels(logits, (30, 40)).all()
    inside = torch.zeros(1, 8, 8) - 5
    inside[:, :6] = 5
    assert frame.to_pixels(inside, (30, 40)).float().mean() > 0.95


def memory(valid: list[tuple[int, int]] | None, shape: tuple[int, int] = SHAPE) -> Memory:
    count = 2 if valid is None else len(valid)
    sizes = None if valid is None else torch.tensor(valid)[:, None]
    return Memory(torch.zeros(count, shape[0] * shape[1], 8), (shape,), torch.zeros(1, 1, 2), sizes)


def test_frames_are_of_the_square_or_of_each_image_alone() -> None:
    sizes = [(33, 50), (40, 31)]
    assert frames_of(memory(None), sizes, 56)[0] == MaskFrame(SHAPE, (56, 56), (33, 50))
    alone = frames_of(memory([(7, 5), (4, 5)]), sizes, 0)
    assert alone == [MaskFrame((5, 7), (33, 50), (33, 50)), MaskFrame((5, 4), (40, 31), (40, 31))]


def test_at_least_one_mask_is_drawn_at_once() -> None:
    frame = MaskFrame((1, 1), (1024, 1024), (8, 8))
    assert frame.at_once((10, 10)) == 64 and frame.at_once((20_000, 20_000)) == 1


# ---- targets and losses ----


def test_targets_of_a_whole_batch_are_soft_at_edges_and_empty_in_padding() -> None:
    masks = torch.ones(2, 20, 24, dtype=torch.bool)
    soft = soft_targets(masks, (40, 48), (5, 6))
    assert (
        soft.shape == (2, 20, 24) and soft[:, 0, 0].eq(1).all() and not soft[:, 10:].any() and not soft[:, :, 12:].any()
    )
    assert 0 < soft[0, 9, 0] <= 1 and not soft_targets(masks[:0], (40, 48), (5, 6)).numel()


def test_pixels_that_show_the_image_are_counted() -> None:
    assert valid_pixels(memory(None)).tolist() == [16 * S] * 2
    rows, columns = (
        (torch.arange(4 * side) * (side - 1) / (4 * side - 1) <= shown - 1).sum() for side, shown in ((5, 3), (7, 4))
    )
    assert valid_pixels(memory([(4, 3), (7, 5)])).tolist() == [rows * columns, 16 * S]


def test_dice_of_the_same_mask_is_nothing_and_of_masks_apart_one() -> None:
    left = torch.zeros(1, 4, 6)
    left[:, :, :3] = 1
    assert_close(soft_dice(left, left), torch.zeros(1), atol=1e-5, rtol=0)
    assert_close(soft_dice(left, 1 - left), torch.ones(1))
    half = torch.full((1, 4, 6), 0.5)
    assert_close(soft_dice(half, half), torch.zeros(1), atol=1e-5, rtol=0)


def test_losses_are_sums_over_masks_by_objects_and_pixels() -> None:
    criterion = MaskCriterion({"dice": 8.0, "bce": 2.0})
    logits, wanted = random(3, 4, 6), torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(0))
    losses = criterion(logits, wanted, torch.tensor([24.0, 24.0, 12.0]), 2.0)
    p = logits.sigmoid()
    dice = 1 - 2 * (p * wanted).sum((1, 2)) / (p.square().sum((1, 2)) + wanted.square().sum((1, 2)) + 1e-5)
    entropy = -(wanted * p.log() + (1 - wanted) * (1 - p).log()).sum((1, 2)) / torch.tensor([24.0, 24.0, 12.0])
    assert_close(losses, {"loss_mask_dice": 8 * dice.sum() / 2, "loss_mask_bce": 2 * entropy.sum() / 2})
