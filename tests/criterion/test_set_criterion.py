"""The detection losses: counted by hand, layer by layer, a share for each object, alive without any.

D layers, B images, Q queries, K classes.
"""

import math

import pytest
import torch
from detectron2.utils.events import EventStorage

from dk_detr.criterion import HungarianMatcher, SetCriterion
from dk_detr.structures import Predictions
from dk_detr.utils import record_now
from tests.model_fixtures import learn, random, targets_of

ONES = {"class": 1.0, "l1": 1.0, "giou": 1.0}
LN2 = math.log(2)


def criterion(**weights: float) -> SetCriterion:
    return SetCriterion(HungarianMatcher(), {**ONES, **weights})


def predictions(depth: int = 2, images: int = 2, queries: int = 5, classes: int = 3) -> Predictions:
    return Predictions(random(depth, images, queries, classes), random(depth, images, queries, 4, seed=1).sigmoid())


TWO_IMAGES = targets_of(([2, 0], [[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.1, 0.2]]), ([1], [[0.4, 0.4, 0.3, 0.3]]))
NOTHING = targets_of(([], []), ([], []))


def by_hand() -> Predictions:
    """One image, two undecided queries and two classes; the second query has the object's place, twice as wide."""
    return Predictions(torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.4, 0.4]]]]))


def test_losses_counted_by_hand() -> None:
    losses, assignment = learn(criterion(), by_hand(), targets_of(([1], [[0.5, 0.5, 0.2, 0.4]])))
    assert assignment.query.tolist() == [1] and assignment.target.tolist() == [0]
    # At p = 1/2: one hit of 0.25 · 0.25 · ln 2, three misses of 0.75 · 0.25 · ln 2.
    assert losses["loss_class"].item() == pytest.approx(0.625 * LN2, rel=1e-5)
    assert losses["loss_l1"].item() == pytest.approx(0.2, rel=1e-5)
    assert losses["loss_giou"].item() == pytest.approx(0.5, rel=1e-5)
    assert set(losses) == {"loss_class", "loss_l1", "loss_giou"}


def test_a_matched_query_is_its_own_objects_class_and_no_other() -> None:
    given = by_hand()
    given.logits[0, 0] = torch.tensor([[-20.0, -20.0], [-20.0, 20.0]])
    right, _ = learn(criterion(), given, targets_of(([1], [[0.5, 0.5, 0.4, 0.4]])))
    wrong, _ = learn(criterion(), given, targets_of(([0], [[0.5, 0.5, 0.4, 0.4]])))
    assert right["loss_class"] < 1e-6 and right["loss_l1"] < 1e-6 and right["loss_giou"] < 1e-5
    assert wrong["loss_class"].item() == pytest.approx(0.25 * 20 + 0.75 * 20, rel=1e-4)


def test_weights_multiply_and_the_stage_names() -> None:
    plain, _ = learn(criterion(), predictions(), TWO_IMAGES)
    weighted, _ = learn(
        criterion(**{"class": 2.0, "l1": 5.0, "giou": 3.0}), predictions(), TWO_IMAGES, "proposal_"
    )
    for term, weight in (("class", 2.0), ("l1", 5.0), ("giou", 3.0)):
        torch.testing.assert_close(weighted[f"loss_proposal_{term}"], weight * plain[f"loss_{term}"])


def test_the_loss_of_all_layers_is_the_sum_of_the_losses_of_each() -> None:
    given = predictions(depth=3)
    together, _ = learn(criterion(), given, TWO_IMAGES)
    layers = [Predictions(given.logits[i : i + 1], given.boxes[i : i + 1]) for i in range(3)]
    alone = [learn(criterion(), layer, TWO_IMAGES)[0] for layer in layers]
    for name, loss in together.items():
        torch.testing.assert_close(loss, sum(losses[name] for losses in alone))


def test_the_last_layer_is_recorded_by_itself() -> None:
    given = predictions(depth=3)
    with EventStorage() as storage:
        learn(criterion(), given, TWO_IMAGES)
        record_now()
    alone, _ = learn(criterion(), Predictions(given.logits[-1:], given.boxes[-1:]), TWO_IMAGES)
    recorded = {f"loss_{term}": storage.latest()[f"last_layer/{term}"][0] for term in ONES}
    assert recorded == pytest.approx({name: loss.item() for name, loss in alone.items()}, rel=1e-5)


def test_losses_are_a_share_for_each_object_of_the_batch() -> None:
    """Two images with 2 and 1 objects: each alone is divided by its own objects, together by three."""
    given = predictions()
    together, _ = learn(criterion(), given, TWO_IMAGES)
    for name in together:
        shares = 0.0
        for image, count in enumerate((2, 1)):
            one = Predictions(given.logits[:, image : image + 1], given.boxes[:, image : image + 1])
            own = type(TWO_IMAGES)(TWO_IMAGES.labels[image : image + 1], TWO_IMAGES.boxes[image : image + 1])
            shares += count * learn(criterion(), one, own)[0][name].item()
        assert together[name].item() == pytest.approx(shares / 3, rel=1e-5)


def test_the_order_of_objects_does_not_matter() -> None:
    turned = targets_of(([0, 2], [[0.3, 0.6, 0.1, 0.2], [0.5, 0.5, 0.2, 0.4]]), ([1], [[0.4, 0.4, 0.3, 0.3]]))
    first, second = learn(criterion(), predictions(), TWO_IMAGES)[0], learn(criterion(), predictions(), turned)[0]
    for name in first:
        torch.testing.assert_close(first[name], second[name])


def test_without_objects_all_is_background_and_every_tensor_still_gets_a_gradient() -> None:
    given = Predictions(torch.zeros(2, 2, 5, 3, requires_grad=True), torch.rand(2, 2, 5, 4, requires_grad=True))
    losses, assignment = learn(criterion(), given, NOTHING)
    assert len(assignment.layer) == 0
    assert losses["loss_class"].item() == pytest.approx(2 * 2 * 5 * 3 * 0.75 * 0.25 * LN2, rel=1e-5)
    assert losses["loss_l1"].item() == 0 and losses["loss_giou"].item() == 0
    sum(losses.values()).backward()
    assert given.logits.grad is not None and given.logits.grad.all()
    assert given.boxes.grad is not None and not given.boxes.grad.any()


def test_predictions_that_do_not_count_cost_nothing() -> None:
    given, valid = predictions(queries=7), torch.ones(2, 7, dtype=torch.bool)
    valid[:, 5:] = False
    with_padding, _ = learn(criterion(), Predictions(given.logits, given.boxes, valid), TWO_IMAGES)
    without, _ = learn(criterion(), Predictions(given.logits[:, :, :5], given.boxes[:, :, :5]), TWO_IMAGES)
    for name in without:
        torch.testing.assert_close(with_padding[name], without[name])


def test_box_losses_teach_matched_boxes_only() -> None:
    given = Predictions(random(1, 2, 5, 3), random(1, 2, 5, 4).sigmoid().requires_grad_())
    losses, assignment = learn(criterion(), given, TWO_IMAGES)
    (losses["loss_l1"] + losses["loss_giou"]).backward()
    taught = given.boxes.grad[0].any(-1).nonzero().tolist()
    assert taught == sorted(map(list, zip(assignment.image.tolist(), assignment.query.tolist())))


def test_class_agnostic_targets_teach_objectness() -> None:
    given = predictions(classes=1)
    losses, _ = learn(criterion(), given, TWO_IMAGES.class_agnostic(), "proposal_")
    same_objects_other_names = targets_of(([0, 0], TWO_IMAGES.boxes[0].tolist()), ([0], TWO_IMAGES.boxes[1].tolist()))
    for name, loss in learn(criterion(), given, same_objects_other_names, "proposal_")[0].items():
        torch.testing.assert_close(losses[name], loss)


def test_half_precision_predictions_give_losses_in_full_precision() -> None:
    given = predictions()
    half, _ = learn(criterion(), Predictions(given.logits.bfloat16(), given.boxes.bfloat16()), TWO_IMAGES)
    for name, loss in learn(criterion(), given, TWO_IMAGES)[0].items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name], loss, rtol=0.02, atol=0.02)


def test_a_broken_prediction_shows_in_the_loss() -> None:
    given = predictions()
    given.boxes[0, 0] = float("nan")
    losses, _ = learn(criterion(), given, TWO_IMAGES)
    assert losses["loss_l1"].isnan() and losses["loss_giou"].isnan()


def test_an_unknown_term_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['mask'\].*\['class', 'giou', 'l1', 'quality'\]"):
        SetCriterion(HungarianMatcher(), {"mask": 1.0})


def test_a_criterion_without_any_term_is_refused() -> None:
    with pytest.raises(ValueError, match=r"choose from \['class', 'giou', 'l1', 'quality'\]"):
        SetCriterion(HungarianMatcher(), {})
