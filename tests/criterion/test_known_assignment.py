"""Losses of predictions that know their objects: nothing is matched, and several may answer for one object.

D layers, B images, Q queries, K classes.
"""

import math

import pytest
import torch

from dk_detr.criterion import CrossEntropy, Focal, HungarianMatcher, SetCriterion
from dk_detr.structures import Assignment, Predictions
from tests.model_fixtures import random, targets_of

LN2 = math.log(2)
ONE_IMAGE = targets_of(([1], [[0.5, 0.5, 0.2, 0.4]]))
TWO_IMAGES = targets_of(([2, 0], [[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.2]]), ([1], [[0.4, 0.4, 0.3, 0.3]]))


def criterion(class_loss=None) -> SetCriterion:
    return SetCriterion(HungarianMatcher(class_loss=class_loss), {"class": 1.0, "l1": 5.0, "giou": 2.0})


def pairs(*rows: tuple[int, int, int, int]) -> Assignment:
    """Of (layer, image, query, target)."""
    return Assignment(*torch.tensor(rows).T)


def by_hand() -> Predictions:
    """One image, two undecided queries and two classes; the second query has the object's place, twice as wide."""
    return Predictions(torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.4, 0.4]]]]))


def test_losses_are_those_of_the_pairs_even_where_others_fit_better() -> None:
    losses = criterion().losses(by_hand(), ONE_IMAGE, pairs((0, 0, 1, 0)), 1)
    assert losses["loss_class"].item() == pytest.approx(0.625 * LN2, rel=1e-5)  # a hit and three misses at p = 1/2
    assert losses["loss_l1"].item() == pytest.approx(5 * 0.2, rel=1e-5)
    assert losses["loss_giou"].item() == pytest.approx(2 * 0.5, rel=1e-5)


def test_what_answers_several_times_for_each_object_is_divided_by_as_many() -> None:
    """Two answers for one object: two hits and two misses, the distances of both."""
    losses = criterion().losses(by_hand(), ONE_IMAGE, pairs((0, 0, 0, 0), (0, 0, 1, 0)), 2, "dn_")
    assert losses["loss_dn_class"].item() == pytest.approx((2 * 0.0625 + 2 * 0.1875) * LN2 / 2, rel=1e-5)
    assert losses["loss_dn_l1"].item() == pytest.approx(5 * 0.2 / 2, rel=1e-5)
    assert losses["loss_dn_giou"].item() == pytest.approx(2 * 0.5 / 2, rel=1e-5)


def test_the_same_answers_twice_cost_what_one_of_each_does() -> None:
    given = Predictions(random(2, 2, 4, 3), random(2, 2, 4, 4, seed=1).sigmoid())
    rows = [(layer, *row) for layer in (0, 1) for row in ((0, 2, 0), (0, 1, 1), (1, 3, 0))]
    once = criterion().losses(given, TWO_IMAGES, pairs(*rows), 3)
    twice = Predictions(given.logits.repeat(1, 1, 2, 1), given.boxes.repeat(1, 1, 2, 1))
    copies = [(layer, image, query + 4, target) for layer, image, query, target in rows]
    for name, loss in criterion().losses(twice, TWO_IMAGES, pairs(*rows, *copies), 6).items():
        torch.testing.assert_close(loss, once[name])


def test_matching_first_is_the_same_as_saying_what_was_matched() -> None:
    given = Predictions(random(2, 2, 5, 3), random(2, 2, 5, 4, seed=1).sigmoid())
    losses, assignment = criterion()(given, TWO_IMAGES, 3)
    for name, loss in criterion().losses(given, TWO_IMAGES, assignment, 3).items():
        assert torch.equal(loss, losses[name])


def test_a_softmax_is_divided_by_its_weights_with_the_answers_of_all_objects() -> None:
    """Three objects with two answers each, of 2 · 5 queries one not real: 6 of weight 1 and 3 of weight 0.1."""
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 4] = False
    given = Predictions(torch.zeros(1, 2, 5, 4), random(1, 2, 5, 4).sigmoid(), valid)
    rows = [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 2, 0), (0, 0, 3, 1), (0, 1, 0, 0), (0, 1, 1, 0)]
    losses = criterion(CrossEntropy(0.1)).losses(given, TWO_IMAGES, pairs(*rows), 6)
    assert losses["loss_class"].item() == pytest.approx(math.log(4), rel=1e-5), "a mean of equal terms"


@pytest.mark.parametrize("class_loss", [Focal(), CrossEntropy()], ids=["Focal", "CrossEntropy"])
def test_negatives_learn_that_they_are_nothing_and_no_box(class_loss) -> None:
    given = Predictions(random(1, 1, 2, 3).requires_grad_(), random(1, 1, 2, 4).sigmoid().requires_grad_())
    losses = criterion(class_loss).losses(given, ONE_IMAGE, pairs((0, 0, 0, 0)), 1)
    sum(losses.values()).backward()
    negative = given.logits.grad[0, 0, 1]
    words = negative if isinstance(class_loss, Focal) else negative[:-1]
    assert (words > 0).all(), "every word becomes less likely"
    assert not given.boxes.grad[0, 0, 1].any() and given.boxes.grad[0, 0, 0].any()
