"""Boxes: round trips between frames, overlaps counted by hand, and finite numbers for boxes without area."""

import math

import pytest
import torch

from dk_detr.layers import generalized_iou, inverse_sigmoid, iou, to_cxcywh, to_xyxy

UNIT = torch.tensor([0.0, 0.0, 1.0, 1.0])


def test_corners_of_a_box() -> None:
    torch.testing.assert_close(to_xyxy(torch.tensor([0.5, 0.4, 0.2, 0.6])), torch.tensor([0.4, 0.1, 0.6, 0.7]))


def test_frames_go_there_and_back() -> None:
    boxes = torch.rand(3, 2, 4)
    torch.testing.assert_close(to_cxcywh(to_xyxy(boxes)), boxes)
    torch.testing.assert_close(to_xyxy(to_cxcywh(boxes)), boxes)


@pytest.mark.parametrize(
    ("other", "overlap", "generalized"),
    [
        ([0.0, 0.0, 1.0, 1.0], 1.0, 1.0),
        ([0.5, 0.0, 1.5, 1.0], 1 / 3, 1 / 3),  # the hull is the union
        ([0.5, 0.5, 1.5, 1.5], 0.25 / 1.75, 0.25 / 1.75 - 0.5 / 2.25),
        ([2.0, 0.0, 3.0, 1.0], 0.0, -1 / 3),  # hull 3, union 2
        ([0.25, 0.25, 0.75, 0.75], 0.25, 0.25),  # inside
        ([1.0, 1.0, 2.0, 2.0], 0.0, -0.5),  # touching corners
    ],
)
def test_hand_counted_overlaps(other: list[float], overlap: float, generalized: float) -> None:
    assert iou(UNIT, torch.tensor(other)).item() == pytest.approx(overlap, abs=1e-6)
    assert generalized_iou(UNIT, torch.tensor(other)).item() == pytest.approx(generalized, abs=1e-6)
    assert generalized_iou(torch.tensor(other), UNIT).item() == pytest.approx(generalized, abs=1e-6)


def test_boxes_far_apart_approach_minus_one() -> None:
    assert generalized_iou(UNIT, UNIT + 1e4).item() == pytest.approx(-1, abs=1e-3)


def test_shapes_broadcast_to_all_pairs() -> None:
    a, b = to_xyxy(torch.rand(3, 4)), to_xyxy(torch.rand(5, 4))
    pairs = generalized_iou(a[:, None], b)
    assert pairs.shape == (3, 5)
    torch.testing.assert_close(pairs[2, 4], generalized_iou(a[2], b[4]))
    assert iou(a[:, None], b).shape == (3, 5)


def test_boxes_without_area_give_finite_overlaps_and_gradients() -> None:
    point = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    for other in (point.detach().clone(), UNIT, torch.tensor([0.1, 0.1, 0.1, 0.9])):
        for overlap in (iou(point, other), generalized_iou(point, other)):
            assert math.isfinite(overlap.item()) and -1 <= overlap.item() <= 1
            assert torch.isfinite(torch.autograd.grad(overlap, point)[0]).all()


def test_the_inverse_sigmoid_inverts_and_stays_finite_at_the_ends() -> None:
    x = torch.tensor([0.001, 0.3, 0.5, 0.999])
    torch.testing.assert_close(inverse_sigmoid(x).sigmoid(), x)
    ends = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    torch.testing.assert_close(ends, torch.tensor([-1.0, -1.0, 1.0, 1.0]) * math.log(1e5))
