"""Class losses by numbers computed by hand: what matching costs, what is learned, and what it is divided by."""

import math

import pytest
import torch
from torch.nn import functional as F

from dk_detr.criterion import CLASS_LOSSES, BoxesOnly, CrossEntropy, Focal, HungarianMatcher, SetCriterion
from dk_detr.structures import Predictions
from tests.model_fixtures import learn, random, targets_of

BOXES = [[0.2, 0.2, 0.1, 0.1], [0.5, 0.5, 0.2, 0.4], [0.8, 0.8, 0.1, 0.1]]
SHARES = torch.tensor([[1, 3, 4], [1, 6, 1], [2, 1, 1]])  # of two words and no object, for each of three queries
AN_OBJECT = targets_of(([1], [[0.5, 0.5, 0.2, 0.4]]))  # where the second query is
NOTHING = targets_of(([], []))
WEIGHTS = {"class": 1.0, "l1": 1.0, "giou": 1.0}


def by_hand(valid: torch.Tensor | None = None) -> Predictions:
    return Predictions(SHARES.log()[None, None], torch.tensor(BOXES)[None, None], valid)


def criterion(no_object_weight: float = 0.1) -> SetCriterion:
    return SetCriterion(HungarianMatcher(class_loss=CrossEntropy(no_object_weight)), WEIGHTS)


def test_a_query_costs_less_the_surer_it_is_of_the_objects_word() -> None:
    cost = CrossEntropy().cost(by_hand(), targets_of(([1, 0], BOXES[:2])))
    shares = torch.tensor([[3 / 8, 1 / 8], [6 / 8, 1 / 8], [1 / 4, 2 / 4]])
    torch.testing.assert_close(cost, -shares[None, None])


def test_the_cost_enters_the_matching_with_its_weight() -> None:
    """The second query is at the object's place, which costs -1 in GIoU."""
    cost = HungarianMatcher({"class": 2.0, "l1": 5.0, "giou": 1.0}, CrossEntropy()).cost(by_hand(), AN_OBJECT)
    assert cost[0, 0, 1, 0].item() == pytest.approx(2 * -6 / 8 - 1)


def test_focal_costs_what_is_gained_by_saying_the_word() -> None:
    focal = Focal().cost(Predictions(torch.tensor([[[[2.0, 0.0]]]]), torch.zeros(1, 1, 1, 4)), AN_OBJECT)
    assert focal.item() == pytest.approx(0.25 * 0.25 * math.log(2) - 0.75 * 0.25 * math.log(2), abs=1e-6)


def test_the_loss_is_the_weighted_mean_over_queries() -> None:
    """One object of share 6/8 and weight 1; nothing of shares 4/8 and 1/4 and weight 0.1: weights sum to 1.2."""
    losses, assignment = learn(criterion(), by_hand(), AN_OBJECT)
    assert assignment.query.tolist() == [1]
    wanted = (math.log(8 / 6) + 0.1 * math.log(2) + 0.1 * math.log(4)) / 1.2
    assert losses["loss_class"].item() == pytest.approx(wanted)


def test_it_is_detrs() -> None:
    """Its formula: the cross-entropy of PyTorch with a weight for each class, for each layer."""
    given = Predictions(random(2, 2, 5, 4), random(2, 2, 5, 4, seed=1).sigmoid())
    targets = targets_of(([2, 0], BOXES[:2]), ([1], BOXES[2:]))
    losses, assignment = learn(criterion(), given, targets)
    wanted = torch.full((2, 2, 5), 3)
    labels = [targets.labels[image][target] for image, target in zip(assignment.image, assignment.target)]
    wanted[assignment.layer, assignment.image, assignment.query] = torch.stack(labels)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    theirs = [F.cross_entropy(x.flatten(0, 1), y.flatten(), weight) for x, y in zip(given.logits, wanted)]
    torch.testing.assert_close(losses["loss_class"], sum(theirs))


def test_by_default_what_matches_nothing_weighs_a_tenth_as_in_detr() -> None:
    assert CrossEntropy() == CrossEntropy(0.1)


def test_what_matches_nothing_counts_as_much_as_its_weight_says() -> None:
    losses, _ = learn(criterion(no_object_weight=0.0), by_hand(), AN_OBJECT)
    assert losses["loss_class"].item() == pytest.approx(math.log(8 / 6))
    losses, _ = learn(criterion(no_object_weight=1.0), by_hand(), AN_OBJECT)
    assert losses["loss_class"].item() == pytest.approx((math.log(8 / 6) + math.log(2) + math.log(4)) / 3)


def test_predictions_that_do_not_count_are_neither_learned_nor_divided_by() -> None:
    losses, _ = learn(criterion(), by_hand(torch.tensor([[False, True, True]])), AN_OBJECT)
    assert losses["loss_class"].item() == pytest.approx((math.log(8 / 6) + 0.1 * math.log(4)) / 1.1)


def test_without_objects_all_is_nothing_and_every_logit_still_learns() -> None:
    """An empty batch counts for one object: weights sum to 1.2 again."""
    given = Predictions(SHARES.log()[None, None].requires_grad_(), torch.tensor(BOXES)[None, None])
    losses, _ = learn(criterion(), given, NOTHING)
    assert losses["loss_class"].item() == pytest.approx(0.1 * (math.log(2) + math.log(8) + math.log(4)) / 1.2)
    losses["loss_class"].backward()
    assert given.logits.grad is not None and given.logits.grad.all()


def test_labels_change_neither_the_matching_nor_the_loss_of_boxes_alone() -> None:
    matcher = HungarianMatcher(class_loss=BoxesOnly())
    other = targets_of(([0], AN_OBJECT.boxes[0].tolist()))
    assert torch.equal(matcher.cost(by_hand(), AN_OBJECT), matcher.cost(by_hand(), other))
    losses, assignment = learn(SetCriterion(matcher, WEIGHTS), by_hand(), AN_OBJECT)
    assert assignment.query.tolist() == [1] and losses["loss_class"].item() == 0
    assert losses["loss_l1"].item() == pytest.approx(0) and losses["loss_giou"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_every_class_loss_keeps_every_logit_in_the_graph(name: str) -> None:
    given = Predictions(random(2, 2, 5, 4).requires_grad_(), random(2, 2, 5, 4, seed=1).sigmoid())
    matcher = HungarianMatcher(class_loss=CLASS_LOSSES[name]())
    losses, _ = learn(SetCriterion(matcher, WEIGHTS), given, targets_of(([], []), ([], [])))
    losses["loss_class"].backward()
    assert given.logits.grad is not None and bool(given.logits.grad.isfinite().all())


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_half_precision_is_judged_in_full(name: str) -> None:
    loss, logits, targets = CLASS_LOSSES[name](), random(1, 1, 3, 4).bfloat16(), targets_of(([1, 0], BOXES[:2]))
    half, full = (Predictions(x, random(1, 1, 3, 4).sigmoid()) for x in (logits, logits.float()))
    torch.testing.assert_close(loss.cost(half, targets).float(), loss.cost(full, targets))


def test_a_negative_of_weight_0_is_not_learned_and_the_word_of_a_matched_object_is_in_any_case() -> None:
    logits = random(2, 1, 3, 2).requires_grad_()
    weight = torch.ones(1, 3, 2)
    weight[0, 0, 0] = weight[0, 1, 1] = 0.0
    predictions = Predictions(logits, torch.tensor(BOXES).expand(2, 1, 3, 4), negative_weight=weight)
    assignment = HungarianMatcher()(predictions, AN_OBJECT)
    assert assignment.query.tolist() == [1, 1]
    Focal().loss(predictions, AN_OBJECT, assignment).sum().backward()
    learned = logits.grad[:, 0] != 0
    assert learned.tolist() == [[[False, True], [True, True], [True, True]]] * 2
