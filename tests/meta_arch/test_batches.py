"""What an image gives does not depend on its company: not on padding, not on order, not on the batch."""

from typing import Any

import pytest
import torch
from detectron2.structures import Instances

from dk_detr.meta_arch import DETR
from tests.model_fixtures import stir, tiny_detector, tiny_distillation, tiny_input, training_losses

SIZES = [(40, 48), (64, 33), (29, 56), (48, 48)]
CLOSED: dict[str, Any] = {"classifier": "Linear"}
DETECTORS: dict[str, dict[str, Any]] = {
    "open, two stages": {},
    "closed, one stage": {**CLOSED, "queries": "Learned", "refinement": "FromReference", "num_heads": 1},
    "closed, one stage, refined": {**CLOSED, "queries": "Learned"},
    "closed, two stages": CLOSED,
}
each_detector = pytest.mark.parametrize("parts", DETECTORS.values(), ids=DETECTORS.keys())


def unlabelled(size: tuple[int, int], seed: int) -> dict[str, Any]:
    given = tiny_input(size, seed=seed)
    return {key: value for key, value in given.items() if key != "instances"}


def assert_same(ours: Instances, theirs: Instances) -> None:
    """The same detections in the same order, to float noise."""
    assert ours.image_size == theirs.image_size
    assert torch.equal(ours.pred_classes, theirs.pred_classes)
    torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor, atol=1e-3, rtol=1e-4)


def detect(detector: DETR, inputs: list[dict[str, Any]]) -> list[Instances]:
    return [given["instances"] for given in detector(inputs)]


@each_detector
@pytest.mark.parametrize("other", range(1, 4))
def test_batch_of_two_equals_two_batches_of_one(other: int, parts: dict[str, Any]) -> None:
    """Of different size, so that one or both are padded."""
    detector = tiny_detector(**parts)
    inputs = [unlabelled(SIZES[0], seed=1), unlabelled(SIZES[other], seed=2)]
    for given, together in zip(inputs, detect(detector, inputs)):
        (alone,) = detect(detector, [given])
        assert_same(together, alone)


def test_a_batch_of_four_in_any_order_equals_four_batches_of_one() -> None:
    detector = tiny_detector()
    inputs = [unlabelled(size, seed) for seed, size in enumerate(SIZES)]
    alone = [detect(detector, [given])[0] for given in inputs]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        for index, together in zip(order, detect(detector, [inputs[i] for i in order])):
            assert_same(together, alone[index])


@pytest.mark.parametrize("size", [(8, 12), (12, 8)])
def test_an_image_with_fewer_places_than_queries_gives_the_same_in_company(size: tuple[int, int]) -> None:
    """Queries that fill up the smaller image see nothing, and so they say nothing."""
    detector = tiny_detector()
    small, large = unlabelled(size, seed=1), unlabelled((40, 48), seed=2)
    (alone,) = detect(detector, [small])
    together, _ = detect(detector, [small, large])
    assert_same(together, alone)


# ---- padded to a square ----


@each_detector
def test_padded_to_a_square_company_changes_nothing_and_padding_does(parts: dict[str, Any]) -> None:
    detector = tiny_detector(**parts)
    inputs = [unlabelled((40, 48), seed=1), unlabelled((64, 33), seed=2)]
    unpadded = detect(detector, inputs)
    detector.padded_size = 64
    for given, together, before in zip(inputs, detect(detector, inputs), unpadded):
        assert_same(together, *detect(detector, [given]))
        assert together.image_size == before.image_size
        assert not torch.allclose(together.scores, before.scores, atol=1e-5)


@each_detector
def test_an_image_as_large_as_the_square_is_not_padded(parts: dict[str, Any]) -> None:
    detector, given = tiny_detector(**parts), unlabelled((48, 48), seed=1)
    (before,) = detect(detector, [given])
    detector.padded_size = 48
    assert_same(*detect(detector, [given]), before)


def test_in_training_a_batch_padded_to_a_square_is_the_mean_of_its_images() -> None:
    """Each sees the same padding, with and without company; distillation asks for crops of the images alone."""
    detector = tiny_detector(tiny_distillation(["semantic", "embedding_l1"]))
    detector.padded_size = 72
    inputs = [tiny_input((40, 48), seed=1), tiny_input((64, 33), seed=2)]
    together, alone = training_losses(detector, inputs), [training_losses(detector, [given]) for given in inputs]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-5)


def test_an_image_larger_than_the_square_is_refused_by_name() -> None:
    detector = tiny_detector()
    detector.padded_size = 47
    with pytest.raises(ValueError, match=r"Image a\.jpg comes as 48x40 pixels .* MODEL\.DETR\.PADDED_SIZE 47"):
        detect(detector, [{**unlabelled((40, 48), seed=1), "file_name": "a.jpg"}])


# ----


@each_detector
def test_different_images_do_give_different_detections(parts: dict[str, Any]) -> None:
    first, second = detect(tiny_detector(**parts), [unlabelled((40, 48), 1), unlabelled((40, 48), 2)])
    assert not torch.equal(first.scores, second.scores)


def test_boxes_come_in_the_size_that_was_asked_for() -> None:
    detector, given = tiny_detector(), unlabelled((40, 48), seed=1)
    (same,) = detect(detector, [given])
    (larger,) = detect(detector, [{**given, "height": 80, "width": 144}])
    assert same.image_size == (40, 48) and larger.image_size == (80, 144)
    factor = torch.tensor([3.0, 2.0, 3.0, 2.0])
    torch.testing.assert_close(larger.pred_boxes.tensor, same.pred_boxes.tensor * factor, atol=1e-3, rtol=1e-4)
    (unasked,) = detect(detector, [{"image": given["image"]}])
    assert_same(unasked, same)


def test_detections_are_at_most_as_many_as_wanted_the_best_first_and_inside_the_image() -> None:
    (found,) = detect(tiny_detector(), [unlabelled((40, 48), seed=1)])
    assert 0 < len(found) <= 20
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    boxes = found.pred_boxes.tensor
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= 48).all() and (boxes[:, [1, 3]] <= 40).all()


def test_only_the_last_layer_names_what_is_seen() -> None:
    detector, given = tiny_detector(), unlabelled((40, 48), seed=1)
    (before,) = detect(detector, [given])
    stir(detector.classifier.projections[0])
    assert_same(*detect(detector, [given]), before)
    stir(detector.classifier.projections[-1])
    assert not torch.allclose(detect(detector, [given])[0].scores, before.scores)


def test_integer_pixels_are_as_good_as_floats() -> None:
    detector, given = tiny_detector(), unlabelled((40, 48), seed=1)
    assert_same(*detect(detector, [given]), *detect(detector, [{**given, "image": given["image"].byte()}]))


def test_in_training_a_batch_without_padding_is_the_mean_of_its_images() -> None:
    """Each image has two objects, so that each counts the same in the share of an object."""
    detector = tiny_detector(tiny_distillation(["semantic", "embedding_l1"]))
    inputs = [tiny_input(seed=1), tiny_input(seed=2)]
    together, alone = training_losses(detector, inputs), [training_losses(detector, [given]) for given in inputs]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-5)


def test_in_training_both_stages_share_by_the_objects_of_the_batch_or_by_the_number_that_is_told() -> None:
    detector, inputs = tiny_detector().train(), [tiny_input(num_objects=3, seed=1), tiny_input(num_objects=1, seed=2)]
    shares, told, halves = detector(inputs), detector(inputs, num_objects=4.0), detector(inputs, num_objects=8.0)
    for name, loss in shares.items():
        torch.testing.assert_close(told[name], loss)
        torch.testing.assert_close(2 * halves[name], loss)


@pytest.mark.parametrize("alone", [False, True], ids=["distilled", "one stage"])
def test_in_training_what_the_padding_of_the_feature_maps_holds_changes_no_loss(alone: bool) -> None:
    """Convolutions see a little of the padding of pixels; from the neck on nothing does."""
    detector = tiny_detector(queries="Learned") if alone else tiny_detector(tiny_distillation())
    inputs = [tiny_input((40, 48), seed=1), tiny_input((64, 33), seed=2)]
    before = training_losses(detector, inputs)
    detector.neck.register_forward_hook(lambda module, given, levels: [garbage(level) for level in levels])
    after = training_losses(detector, inputs)
    for name, loss in before.items():
        torch.testing.assert_close(after[name], loss)


def garbage(level: torch.Tensor) -> torch.Tensor:
    """A map of the batch above with large numbers where it shows no image: the batch is padded to 64 x 48 pixels."""
    level = level.clone()
    h, w = level.shape[-2:]
    level[0, :, -(-40 * h // 64) :] = 1e3
    level[1, :, :, -(-33 * w // 48) :] = 1e3
    return level
