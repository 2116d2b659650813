"""What detection losses are divided by: the objects of a batch, however it is cut into parts."""

from contextlib import suppress

import pytest
import torch

from dk_detr.criterion import HungarianMatcher, SetCriterion, batch_in_parts
from dk_detr.criterion.normaliser import number_of_objects
from dk_detr.structures import Predictions, Targets
from tests.model_fixtures import random, targets_of

HERE = torch.device("cpu")
COUNTS = [(2, 1), (3, 0), (0, 0), (1, 1)]


def image_with(count: int) -> Targets:
    boxes = [[0.2 + 0.2 * number, 0.5, 0.2, 0.3] for number in range(count)]
    return targets_of((list(range(count)), boxes))


def both(first: Targets, second: Targets) -> Targets:
    return Targets(first.labels + second.labels, first.boxes + second.boxes)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_the_mean_over_the_parts_of_a_batch_is_the_loss_of_the_batch(counts: tuple[int, int]) -> None:
    criterion = SetCriterion(HungarianMatcher(), {"class": 1.0, "l1": 1.0, "giou": 1.0})
    logits, boxes = random(2, 2, 5, 3), random(2, 2, 5, 4, seed=1).sigmoid()
    images = [image_with(count) for count in counts]
    whole, _ = criterion(Predictions(logits, boxes), both(*images))
    with batch_in_parts(sum(counts), 2, HERE):
        given = [Predictions(logits[:, i : i + 1], boxes[:, i : i + 1]) for i in range(2)]
        parts = [criterion(part, image)[0] for part, image in zip(given, images)]
    for name, loss in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, loss)


def test_a_part_counts_the_objects_of_its_batch_and_a_batch_its_own() -> None:
    assert number_of_objects(image_with(3), HERE) == 3
    with batch_in_parts(8, 2, HERE):
        assert number_of_objects(image_with(3), HERE) == 4
    assert number_of_objects(image_with(3), HERE) == 3


def test_a_batch_without_objects_counts_as_one() -> None:
    assert number_of_objects(image_with(0), HERE) == 1
    with batch_in_parts(0, 4, HERE):
        assert number_of_objects(image_with(0), HERE) == 0.25


def test_what_a_part_was_told_is_forgotten_when_it_fails() -> None:
    with suppress(FloatingPointError), batch_in_parts(8, 2, HERE):
        raise FloatingPointError
    assert number_of_objects(image_with(3), HERE) == 3


def objects_of_a_worker(rank: int) -> tuple[float, float]:
    own = float(number_of_objects(image_with(3 * rank), HERE))
    with batch_in_parts(6 * rank, 2, HERE):
        return own, float(number_of_objects(image_with(rank), HERE))


def test_workers_count_the_objects_of_all(in_two_workers) -> None:
    assert in_two_workers(objects_of_a_worker) == [(1.5, 1.5), (1.5, 1.5)]
