"""From predictions to Instances: the best (query, class) pairs, counted by hand."""

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image

from dk_detr.layers import to_absolute_xyxy
from dk_detr.modeling import to_instances
from tests.model_fixtures import random

SCORES = torch.tensor([[[0.3, 0.9, 0.1], [0.8, 0.2, 0.7]]])  # one image, two queries, three classes
BOXES = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.9, 0.4, 0.4]]])


def test_the_best_pairs_come_first_and_a_query_may_be_two_things() -> None:
    (found,) = to_instances(SCORES, BOXES, [(100, 200)], num_detections=3)
    assert found.query.tolist() == [0, 1, 1] and found.pred_classes.tolist() == [1, 0, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.9, 0.8, 0.7]))


def test_boxes_are_pixels_of_the_wanted_size_clipped_to_it() -> None:
    (found,) = to_instances(SCORES, BOXES, [(100, 200)], num_detections=2)
    assert found.image_size == (100, 200)
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[80.0, 30, 120, 70], [0.0, 70, 60, 100]]))


def test_there_are_never_more_detections_than_pairs() -> None:
    (found,) = to_instances(SCORES, BOXES, [(100, 200)], num_detections=100)
    assert len(found) == 6
    assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_images_keep_their_own_size_and_detections() -> None:
    both = to_instances(torch.cat([SCORES, 1 - SCORES]), BOXES.repeat(2, 1, 1), [(100, 200), (10, 10)], 1)
    assert both[0].pred_classes.tolist() == [1]
    assert both[1].pred_classes.tolist() == [2] and both[1].image_size == (10, 10)
    assert both[1].pred_boxes.tensor.max() <= 10


def test_a_score_of_nothing_is_no_detection() -> None:
    scores = SCORES.clone()
    scores[0, 1] = 0
    (found,) = to_instances(scores, BOXES, [(100, 200)], num_detections=6)
    assert found.query.tolist() == [0, 0, 0]


SIZE = (80, 100)


@pytest.mark.parametrize(("count", "num_words"), [(1, 7), (10, 7), (30, 1), (500, 3)])
def test_after_nms_detections_are_those_that_detectron2_finds_among_all_pairs(count: int, num_words: int) -> None:
    boxes = random(2, 60, 4).sigmoid() * torch.tensor([0.5, 0.5, 0.4, 0.4]) + 0.1
    scores = random(2, 60, num_words, seed=1).sigmoid() ** 4
    for found, b, s in zip(to_instances(scores, boxes, [SIZE] * 2, count, nms_iou=0.4), boxes, scores):
        background = torch.cat([s, s[:, :1] * 0], 1)
        (theirs, _) = fast_rcnn_inference_single_image(to_absolute_xyxy(b, SIZE), background, SIZE, 0.0, 0.4, count)
        torch.testing.assert_close(found.scores, theirs.scores)
        torch.testing.assert_close(found.pred_boxes.tensor, theirs.pred_boxes.tensor)
        assert found.pred_classes.tolist() == theirs.pred_classes.tolist()
        assert torch.equal(s[found.query, found.pred_classes], found.scores), "queries stay those of the boxes"


def test_nms_leaves_other_words_at_the_same_place_alone() -> None:
    scores = torch.tensor([[[0.9, 0.1], [0.8, 0.7]]])
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.39]]])
    (found,) = to_instances(scores, boxes, [SIZE], 10, nms_iou=0.5)
    assert list(zip(found.query.tolist(), found.pred_classes.tolist())) == [(0, 0), (1, 1)]
