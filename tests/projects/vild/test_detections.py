"""The best detections of an image are those that Detectron2 finds by looking at all pairs."""

import pytest
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Instances
from torch import Tensor

from projects.ViLD.vild.detections import best_detections

SIZE = (80, 100)


def regions(count: int, num_words: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes that overlap much, some beyond the image, and scores of words."""
    dice = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=dice) * 60 - 5
    boxes = torch.cat([corner, corner + 20 + 30 * torch.rand(count, 2, generator=dice)], 1)
    return boxes, torch.rand(count, num_words, generator=dice) ** 4


def by_detectron2(boxes: Tensor, scores: Tensor, threshold: float, nms_iou: float, count: int) -> Instances:
    with_background = torch.cat([scores, scores[:, :1] * 0], 1)
    return fast_rcnn_inference_single_image(boxes, with_background, SIZE, threshold, nms_iou, count)[0]


def assert_same(ours: Instances, theirs: Instances) -> None:
    torch.testing.assert_close(ours.scores, theirs.scores)
    torch.testing.assert_close(ours.pred_boxes.tensor, theirs.pred_boxes.tensor)
    assert ours.pred_classes.tolist() == theirs.pred_classes.tolist()


@pytest.mark.parametrize("threshold", [0.0, 0.05])
@pytest.mark.parametrize(("count", "num_words"), [(1, 7), (10, 7), (30, 1), (500, 3)])
def test_they_are_those_of_all_pairs(count: int, num_words: int, threshold: float) -> None:
    boxes, scores = regions(60, num_words)
    ours = best_detections(boxes.clone(), scores.log(), SIZE, threshold, 0.3, count)
    assert_same(ours, by_detectron2(boxes, scores, threshold, 0.3, count))


def test_where_the_best_all_fall_to_one_the_next_are_asked() -> None:
    """100 copies of one box are one detection; the other box has the lowest score of all."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]] * 100 + [[50.0, 50.0, 70.0, 70.0]])
    scores = torch.linspace(0.9, 0.1, 101)[:, None]
    found = best_detections(boxes, scores.log(), SIZE, 0.0, 0.5, 2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])


def test_without_regions_there_are_no_detections() -> None:
    found = best_detections(torch.zeros(0, 4), torch.zeros(0, 5), SIZE, 0.0, 0.5, 10)
    assert len(found) == 0 and found.image_size == SIZE


def test_a_box_that_is_no_number_is_no_detection() -> None:
    boxes = torch.tensor([[0.0, 0.0, torch.nan, 10.0], [0.0, 0.0, 10.0, 10.0]])
    found = best_detections(boxes, torch.tensor([[0.9], [0.5]]).log(), SIZE, 0.0, 0.5, 10)
    assert found.scores.tolist() == pytest.approx([0.5])
