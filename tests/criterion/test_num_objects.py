"""What detection losses are divided by: the objects of a batch, in however many parts and workers."""

import pytest
import torch

from dk_detr.criterion import HungarianMatcher, SetCriterion, mean_num_objects
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
    images, number = [image_with(count) for count in counts], mean_num_objects(sum(counts), HERE)
    whole, _ = criterion(Predictions(logits, boxes), both(*images), number)
    given = [Predictions(logits[:, i : i + 1], boxes[:, i : i + 1]) for i in range(2)]
    parts = [criterion(part, image, number / 2)[0] for part, image in zip(given, images)]
    for name, loss in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, loss)


def test_the_objects_of_one_worker_are_counted_and_none_count_as_one() -> None:
    assert mean_num_objects(3, HERE) == 3 and mean_num_objects(1, HERE) == 1 and mean_num_objects(0, HERE) == 1


def of_a_worker(rank: int) -> tuple[float, float, float]:
    return tuple(float(mean_num_objects(number, HERE)) for number in (3 * rank, rank, 0))  # type: ignore[return-value]


def test_workers_count_the_objects_of_all_and_at_least_one_each(in_two_workers) -> None:
    """Three objects among two workers are 1.5 a worker; one object is half a one, which counts as one; so does none."""
    assert in_two_workers(of_a_worker) == [(1.5, 1.0, 1.0), (1.5, 1.0, 1.0)]
