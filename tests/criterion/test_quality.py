"""The term "quality": what says how well a box fits learns from boxes that overlap an object, and from no others."""

import math

import pytest
import torch

from dk_detr.criterion import HungarianMatcher, Quality, SetCriterion
from dk_detr.structures import Assignment, Predictions
from tests.model_fixtures import learn, random, targets_of

ONE = targets_of(([2], [[0.5, 0.5, 0.4, 0.4]]))
NONE = Assignment(*torch.zeros(4, 0, dtype=torch.long))
# IoU with the object: 1, 0.5 (half as wide), 0.25 (half as wide and high), 0.
BOXES = [[0.5, 0.5, 0.4, 0.4], [0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]


def predictions(valid: list[bool] | None = None) -> Predictions:
    boxes = torch.tensor([[BOXES]], requires_grad=True)
    kept = None if valid is None else torch.tensor([valid])
    return Predictions(random(1, 1, 4, 3), boxes, kept, random(1, 1, 4, seed=2).requires_grad_())


def test_only_boxes_that_overlap_an_object_by_0_3_learn_and_matched_or_not_all_of_them() -> None:
    given = predictions()
    Quality().loss(given, ONE, NONE).sum().backward()
    assert (given.quality.grad[0, 0] != 0).tolist() == [True, True, False, False]
    assert given.boxes.grad is None, "it is a judge of boxes, and does not move them"


def test_at_its_lowest_it_says_the_iou() -> None:
    given = predictions()
    quality = torch.tensor([[[8.0, 0.0, 5.0, 5.0]]], requires_grad=True)
    Quality().loss(Predictions(given.logits, given.boxes, None, quality), ONE, NONE).sum().backward()
    assert quality.grad[0, 0].abs().max() < 1e-3
    lost = Quality().loss(Predictions(given.logits, given.boxes, None, quality), ONE, NONE)
    assert lost.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-8)), rel=1e-3)


def test_what_only_fills_up_does_not_learn() -> None:
    given = predictions([False, True, True, True])
    Quality().loss(given, ONE, NONE).sum().backward()
    assert (given.quality.grad[0, 0] != 0).tolist() == [False, True, False, False]


def test_without_objects_there_is_a_zero_with_a_gradient() -> None:
    given = predictions()
    loss = Quality().loss(given, targets_of(([], [])), NONE)
    loss.sum().backward()
    assert loss.tolist() == [0.0] and not given.quality.grad.any()


def test_it_is_weighed_and_named_as_all_terms_and_changes_no_matching() -> None:
    given, weights = predictions(), {"class": 2.0, "l1": 5.0, "giou": 2.0}
    plain, matched = learn(SetCriterion(HungarianMatcher(), weights), given, ONE)
    rated, same = learn(SetCriterion(HungarianMatcher(), {**weights, "quality": 0.5}), given, ONE)
    assert torch.equal(matched.query, same.query)
    assert rated.keys() - plain.keys() == {"loss_quality"}
    assert rated["loss_quality"].item() == pytest.approx(0.5 * Quality().loss(given, ONE, NONE).item())
    by_it, _ = learn(SetCriterion(HungarianMatcher({**weights, "quality": 3.0}), weights), given, ONE)
    assert by_it["loss_l1"] == plain["loss_l1"]
