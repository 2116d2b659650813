"""Refinement: boxes around points and boxes, and the references of the layer that comes next."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.layers import inverse_sigmoid
from dk_detr.modeling import REFINEMENTS, FromReference, Iterative, box_heads
from dk_detr.modeling.box_parameterization import Logits
from dk_detr.modeling.refinement import Direct
from dk_detr.structures import QueryGroup, QuerySet
from tests.model_fixtures import random

BOXES = torch.tensor([[0.5, 0.25, 0.2, 0.1], [0.3, 0.7, 0.1, 0.4]])


decode = Logits().decode


def queries(reference: torch.Tensor) -> QuerySet:
    content = torch.zeros(*reference.shape[:2], 8)
    return QuerySet((QueryGroup("detection", content, content, reference, ("detection",), "detection"),))


def test_no_offset_leaves_a_box_as_it_is() -> None:
    torch.testing.assert_close(decode(BOXES, torch.zeros(2, 4)), BOXES)


def test_a_point_is_the_centre_and_the_offset_alone_the_size() -> None:
    delta = torch.tensor([[0.0, 0.0, -2.0, 0.0], [1.0, 0.0, 0.0, 3.0]])
    boxes = decode(BOXES[:, :2], delta)
    torch.testing.assert_close(boxes[0], torch.tensor([0.5, 0.25, 0.1192, 0.5]), atol=1e-4, rtol=0)
    moved = torch.tensor([0.3 * 2.71828 / (0.7 + 0.3 * 2.71828), 0.7, 0.5, 0.95257])
    torch.testing.assert_close(boxes[1], moved, atol=1e-4, rtol=0)


def test_a_box_moves_and_grows_by_the_offset_in_logits() -> None:
    delta = random(2, 4)
    torch.testing.assert_close(decode(BOXES, delta), (inverse_sigmoid(BOXES) + delta).sigmoid())


def test_boxes_are_in_full_precision_even_if_the_offsets_are_not() -> None:
    assert decode(BOXES, torch.zeros(2, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_without_a_start_the_offsets_are_the_box() -> None:
    delta = random(2, 4)
    torch.testing.assert_close(decode(None, delta), delta.sigmoid())


def next_reference(name: str, reference: Tensor | None, boxes: Tensor, delta: Tensor | None = None) -> Any:
    """(reference, start) of the next layer."""
    group = queries(BOXES[None] if reference is None else reference)
    refinement, offsets = REFINEMENTS[name](), torch.zeros(1, 2, 4) if delta is None else delta
    return refinement.next_reference(group, reference, boxes, lambda: decode(reference, offsets))


@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("name", REFINEMENTS)
def test_what_a_layer_starts_from_is_as_wide_as_was_said(name: str, width: int) -> None:
    refinement, reference = REFINEMENTS[name](), BOXES[None, :, :width]
    start = refinement.start(reference)
    for said in refinement.widths(width, 3):
        assert (start is None and said == 0) or start.shape == (1, 2, said)
        reference, start = next_reference(name, reference, BOXES[None] * 0.9)


@pytest.mark.parametrize("width", [2, 4])
def test_iterative_goes_on_from_the_boxes_without_gradient(width: int) -> None:
    boxes, reference = BOXES[None].clone().requires_grad_(), BOXES[None, :, :width] / 2
    going_on, start = next_reference("Iterative", reference, boxes)
    assert torch.equal(going_on, boxes) and not going_on.requires_grad and start is going_on


@pytest.mark.parametrize("width", [2, 4])
def test_looking_forward_twice_starts_from_boxes_of_the_raw_features_with_gradient(width: int) -> None:
    boxes, delta = BOXES[None], (0.1 * random(1, 2, 4)).requires_grad_()
    reference = BOXES[None, :, :width] / 2
    going_on, start = next_reference("LookForwardTwice", reference, boxes, delta)
    assert torch.equal(start, decode(reference, delta)) and not torch.equal(start, boxes)
    assert torch.equal(going_on, start) and not going_on.requires_grad
    start.sum().backward()
    assert delta.grad.all()


@pytest.mark.parametrize("width", [2, 4])
def test_from_reference_never_moves_references(width: int) -> None:
    reference = (BOXES[None, :, :width] / 2).requires_grad_()
    assert all(each is reference for each in next_reference("FromReference", reference, BOXES[None]))


def test_direct_boxes_start_from_nothing_and_leave_references_where_they_are() -> None:
    reference = BOXES[None] / 2
    assert next_reference("Direct", reference, BOXES[None]) == (reference, None)
    assert next_reference("Direct", None, BOXES[None]) == (None, None)


def sides(heads) -> list[float]:
    """The size that each new head gives to a point, as a logit."""
    biases = [head.layers[-1].bias.tolist() for head in heads]
    assert not any(head.layers[-1].weight.any() for head in heads)
    assert all(bias[:2] == [0, 0] and bias[2] == bias[3] for bias in biases)
    return [bias[3] for bias in biases]


def test_new_heads_that_serve_points_only_start_with_small_boxes() -> None:
    """As the release has it: where references become boxes, heads that add to boxes must start with none to add."""
    for refinement, first, per_layer, shared in (
        (Iterative(), 2, [-2, 0, 0], [0]),
        (FromReference(), 2, [-2, -2, -2], [-2]),
        (Iterative(), 4, [0, 0, 0], [0]),
        (FromReference(), 4, [0, 0, 0], [0]),
    ):
        widths = refinement.widths(first, 3)
        assert sides(box_heads(8, 3, widths)) == per_layer
        assert sides(box_heads(8, 1, widths)) == shared


def test_new_heads_that_start_from_nothing_are_not_zero() -> None:
    """Else all queries would say the same first box."""
    (head,) = box_heads(8, 1, Direct().widths(0, 3))
    assert head.layers[-1].weight.any()
