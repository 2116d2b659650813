"""How detections are compared."""

import torch
from detectron2.structures import Boxes, Instances

from dk_detr.export.check import difference

BOXES = [[10.0, 10, 20, 20], [30, 30, 60, 60], [0, 0, 5, 5]]


def found(scores: list[float], labels: list[int], moved: float = 0.0) -> Instances:
    boxes = Boxes(torch.tensor(BOXES)[: len(scores)] + moved)
    return Instances((100, 100), pred_boxes=boxes, scores=torch.tensor(scores), pred_classes=torch.tensor(labels))


def test_the_same_detections_do_not_differ() -> None:
    same = difference(found([0.9, 0.8, 0.7], [0, 1, 2]), found([0.9, 0.8, 0.7], [0, 1, 2]))
    assert (same.number, same.unmatched, same.boxes, same.scores) == (3, 0, 0.0, 0.0)


def test_equal_scores_may_change_places() -> None:
    expected = found([0.9, 0.9, 0.7], [0, 0, 2])
    swapped = expected[[1, 0, 2]]
    assert difference(expected, swapped).boxes == 0.0


def test_a_box_that_moves_is_seen_in_pixels_and_as_a_share() -> None:
    moved = difference(found([0.9, 0.8, 0.7], [0, 1, 2]), found([0.9, 0.8, 0.7], [0, 1, 2], moved=0.5))
    assert abs(moved.pixels - 0.5) < 1e-6 and abs(moved.boxes - 0.5) < 1e-6  # the last box begins at 0: of one pixel


def test_another_word_or_score_leaves_a_detection_unmatched() -> None:
    expected = found([0.9, 0.8, 0.7], [0, 1, 2])
    assert difference(expected, found([0.9, 0.8, 0.7], [0, 2, 2])).unmatched == 1
    assert difference(expected, found([0.9, 0.81, 0.7], [0, 1, 2])).unmatched == 1


def test_what_is_missing_at_the_end_of_the_list_does_not_count() -> None:
    assert difference(found([0.9, 0.8, 0.7], [0, 1, 2]), found([0.9, 0.8], [0, 1])).unmatched == 0
    assert difference(found([0.9, 0.8, 0.7], [0, 1, 2]), found([0.9], [0])).unmatched == 1
