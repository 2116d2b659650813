"""The matcher: optimal against all permutations, one prediction an object, and never stopped by bad numbers.

D layers, B images, Q queries, K classes.
"""

import math
from itertools import permutations

import pytest
import torch

from dk_detr.criterion import HungarianMatcher
from dk_detr.structures import Assignment, Predictions, Targets
from tests.model_fixtures import random, targets_of


def predictions(depth: int = 1, images: int = 1, queries: int = 5, classes: int = 3, seed: int = 0) -> Predictions:
    logits = random(depth, images, queries, classes, seed=seed)
    return Predictions(logits, random(depth, images, queries, 4, seed=seed + 1).sigmoid())


def targets(*counts: int, classes: int = 3) -> Targets:
    """Images with so many objects."""
    generator = torch.Generator().manual_seed(5)
    labels = tuple(torch.randint(classes, (count,), generator=generator) for count in counts)
    return Targets(labels, tuple(torch.rand(count, 4, generator=generator) * 0.5 + 0.2 for count in counts))


def pairs(assignment: Assignment, layer: int, image: int) -> list[tuple[int, int]]:
    """(query, object) of one image in one layer."""
    keep = (assignment.layer == layer) & (assignment.image == image)
    return list(zip(assignment.query[keep].tolist(), assignment.target[keep].tolist()))


def test_the_cost_of_one_pair_counted_by_hand() -> None:
    given = Predictions(torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.5, 0.5, 0.4, 0.4]]]]))
    wanted = targets_of(([1], [[0.5, 0.5, 0.2, 0.4]]))
    focal = 0.25 * 0.25 * math.log(2) - 0.75 * 0.25 * math.log(2)  # at p = 0.5
    cost = HungarianMatcher({"class": 3.0, "l1": 5.0, "giou": 7.0}).cost(given, wanted).item()
    assert cost == pytest.approx(3 * focal + 5 * 0.2 - 7 * 0.5, abs=1e-5)


def test_matching_is_optimal_against_brute_force() -> None:
    matcher, given, wanted = HungarianMatcher(), predictions(depth=2, images=3), targets(3, 2, 4)
    cost, assignment = matcher.cost(given, wanted), matcher(given, wanted)
    for layer in range(2):
        for image, count in enumerate(wanted.counts):
            best = min(
                sum(cost[layer, image, query, target].item() for target, query in enumerate(choice))
                for choice in permutations(range(5), count)
            )
            found = pairs(assignment, layer, image)
            assert sum(cost[layer, image, query, target].item() for query, target in found) == pytest.approx(best)
            assert sorted(target for _, target in found) == list(range(count))
            assert len({query for query, _ in found}) == count


def test_a_perfect_prediction_is_matched_wherever_it_stands() -> None:
    wanted = targets(3)
    boxes = random(1, 1, 6, 4).sigmoid()
    logits = torch.full((1, 1, 6, 3), -3.0)
    for target, query in enumerate((4, 0, 5)):
        boxes[0, 0, query] = wanted.boxes[0][target]
        logits[0, 0, query, wanted.labels[0][target]] = 3.0
    assert pairs(HungarianMatcher()(Predictions(logits, boxes), wanted), 0, 0) == [(0, 1), (4, 0), (5, 2)]


def test_layers_and_images_are_matched_by_themselves() -> None:
    matcher, given, wanted = HungarianMatcher(), predictions(depth=2, images=2), targets(3, 2)
    together = matcher(given, wanted)
    for layer in range(2):
        for image in range(2):
            one = Predictions(given.logits[layer, image][None, None], given.boxes[layer, image][None, None])
            alone = matcher(one, Targets((wanted.labels[image],), (wanted.boxes[image],)))
            assert pairs(together, layer, image) == pairs(alone, 0, 0)


def test_an_image_without_objects_matches_nothing() -> None:
    assignment = HungarianMatcher()(predictions(depth=2, images=3), targets(2, 0, 1))
    assert [len(pairs(assignment, layer, image)) for layer in range(2) for image in range(3)] == [2, 0, 1] * 2
    nothing = HungarianMatcher()(predictions(images=2), targets(0, 0))
    assert [column.shape for column in (nothing.layer, nothing.image, nothing.query, nothing.target)] == [(0,)] * 4
    assert nothing.query.dtype == torch.int64


def test_objects_beyond_the_number_of_queries_stay_unmatched() -> None:
    assignment = HungarianMatcher()(predictions(queries=2), targets(4))
    found = pairs(assignment, 0, 0)
    assert sorted(query for query, _ in found) == [0, 1] and len({target for _, target in found}) == 2


def test_invalid_predictions_are_never_matched_while_there_are_others() -> None:
    wanted = targets(2)
    perfect = torch.cat([wanted.boxes[0], random(4, 4).sigmoid()])[None, None]
    valid = torch.tensor([[False, False, True, True, True, True]])
    given = Predictions(random(1, 1, 6, 3), perfect, valid)
    assert all(query >= 2 for query, _ in pairs(HungarianMatcher()(given, wanted), 0, 0))
    only_one = Predictions(given.logits, given.boxes, torch.arange(6)[None] == 3)
    found = pairs(HungarianMatcher()(only_one, wanted), 0, 0)
    assert len(found) == 2 and 3 in [query for query, _ in found]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_broken_predictions_do_not_stop_the_assignment_of_the_others(value: float) -> None:
    given, wanted = predictions(), targets(2)
    healthy = [query for query, _ in pairs(HungarianMatcher()(given, wanted), 0, 0)]
    broken = next(query for query in range(5) if query not in healthy)
    given.boxes[0, 0, broken] = value
    assert [query for query, _ in pairs(HungarianMatcher()(given, wanted), 0, 0)] == healthy
    given.boxes[:], given.logits[:] = value, value
    assert len(pairs(HungarianMatcher()(given, wanted), 0, 0)) == 2


def test_certain_predictions_have_finite_costs() -> None:
    given, wanted = predictions(), targets(2)
    given.logits[0, 0, 0], given.logits[0, 0, 1] = 200.0, -200.0
    assert HungarianMatcher().cost(given, wanted).abs().max() < 1000


def test_half_precision_is_matched_like_full_precision() -> None:
    given, wanted = predictions(), targets(3)
    half = Predictions(given.logits.half(), given.boxes.half())
    assert pairs(HungarianMatcher()(half, wanted), 0, 0) == pairs(HungarianMatcher()(given, wanted), 0, 0)
