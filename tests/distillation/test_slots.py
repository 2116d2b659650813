"""Which query slots are distilled: unmatched, at most so many, the best first, filters one by one.

B images, Q queries.
"""

import pytest
import torch
from torch import Tensor

from dk_detr.distillation import SlotSelection
from dk_detr.structures import Assignment, Regions, Targets
from tests.model_fixtures import targets_of

NOTHING = targets_of(([], []))
SIZE = [(100, 100)]


def matched(*pairs: tuple[int, int]) -> Assignment:
    """Queries (image, query) that answer for an object."""
    image, query = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).unbind(1)
    return Assignment(torch.zeros_like(image), image, query, torch.zeros_like(image))


def apart(queries: int, images: int = 1) -> Tensor:
    """Boxes (B, Q, 4) that do not touch, 8 pixels wide."""
    centers = (torch.arange(queries) + 0.5) / queries
    return torch.stack([centers, centers, *torch.full((2, queries), 0.08)], dim=-1).expand(images, -1, -1)


def falling(queries: int, images: int = 1) -> Tensor:
    """Objectness (B, Q) as the first stage gives it."""
    return torch.arange(queries, 0, -1.0).expand(images, -1)


def choose(
    selection: SlotSelection,
    boxes: Tensor,
    assignment: Assignment | None = None,
    targets: Targets = NOTHING,
    sizes: list[tuple[int, int]] | None = None,
) -> Regions:
    images, queries = boxes.shape[:2]
    return selection(boxes, falling(queries, images), assignment or matched(), targets, sizes or SIZE * images)


def test_matched_queries_are_left_out() -> None:
    regions = choose(SlotSelection(), apart(6), matched((0, 0), (0, 3)))
    assert regions.query.tolist() == [1, 2, 4, 5]


def test_without_that_filter_matched_queries_stay() -> None:
    assert choose(SlotSelection(filters=()), apart(6), matched((0, 0))).query.tolist() == [0, 1, 2, 3, 4, 5]


def test_the_best_are_taken_and_no_more_than_asked_for() -> None:
    regions = choose(SlotSelection(num_slots=3), apart(8), matched((0, 1)))
    assert regions.query.tolist() == [0, 2, 3]


def test_fewer_remain_where_fewer_are_unmatched() -> None:
    assert choose(SlotSelection(num_slots=5), apart(4), matched((0, 0), (0, 1), (0, 2))).query.tolist() == [3]
    nothing = choose(SlotSelection(num_slots=5), apart(2), matched((0, 0), (0, 1)))
    assert len(nothing) == 0 and nothing.boxes.shape == (0, 4)


def test_regions_say_where_and_whose_they_are() -> None:
    boxes = torch.rand(2, 4, 4) * 0.5 + 0.2
    regions = choose(SlotSelection(num_slots=2), boxes, matched((0, 0), (1, 1)), targets_of(([], []), ([], [])))
    assert regions.image.tolist() == [0, 0, 1, 1] and regions.query.tolist() == [1, 2, 0, 2]
    assert torch.equal(regions.boxes, boxes[regions.image, regions.query])


def test_images_are_chosen_for_by_themselves() -> None:
    selection = SlotSelection(3, ("unmatched", "base_overlap", "duplicates"))
    boxes = torch.rand(2, 9, 4, generator=torch.Generator().manual_seed(1)) * 0.4 + 0.3
    targets = targets_of(([0], [boxes[0, 4].tolist()]), ([], []))
    both = choose(selection, boxes, matched((0, 1), (1, 2)), targets)
    for image, pair in enumerate(((0, 1), (0, 2))):
        own = Targets(targets.labels[image : image + 1], targets.boxes[image : image + 1])
        alone = choose(selection, boxes[image : image + 1], matched(pair), own)
        assert both.query[both.image == image].tolist() == alone.query.tolist()


def test_boxes_over_a_labelled_object_are_left_out_by_base_overlap() -> None:
    boxes = apart(5).clone()
    boxes[0, 1, 2:] *= torch.tensor([1.0, 0.6])  # IoU 0.6 with what the second query had found
    boxes[0, 3, 2:] *= torch.tensor([1.0, 0.4])
    targets = targets_of(([0, 0], [apart(5)[0, 1].tolist(), apart(5)[0, 3].tolist()]))
    selection = SlotSelection(filters=("base_overlap",), base_overlap_iou=0.5, min_side=0.0)
    assert choose(selection, boxes, targets=targets).query.tolist() == [0, 2, 3, 4]
    assert choose(SlotSelection(filters=("base_overlap",)), boxes, targets=NOTHING).query.tolist() == [0, 1, 2, 4]


def test_of_duplicates_the_one_of_highest_objectness_stays() -> None:
    boxes = apart(5).clone()
    boxes[0, 2] = boxes[0, 1]
    boxes[0, 4] = boxes[0, 0] * torch.tensor([1.0, 1.0, 1.0, 0.65])
    selection = SlotSelection(filters=("duplicates",), duplicates_iou=0.7)
    assert choose(selection, boxes).query.tolist() == [0, 1, 3, 4]
    assert choose(SlotSelection(filters=("duplicates",), duplicates_iou=0.6), boxes).query.tolist() == [0, 1, 3]


def test_a_matched_query_does_not_stand_for_its_unmatched_duplicate() -> None:
    """Filters work one after the other: the duplicate of a box that is left out anyway may stay."""
    boxes = apart(3).clone()
    boxes[0, 2] = boxes[0, 0]
    regions = choose(SlotSelection(filters=("unmatched", "duplicates")), boxes, matched((0, 0)))
    assert regions.query.tolist() == [1, 2]


def test_boxes_of_different_images_are_never_duplicates() -> None:
    boxes = apart(2, images=2)
    regions = choose(SlotSelection(filters=("duplicates",)), boxes, targets=targets_of(([], []), ([], [])))
    assert regions.query.tolist() == [0, 1, 0, 1]


def test_boxes_that_show_too_few_pixels_are_left_out() -> None:
    boxes = apart(3).clone()
    boxes[0, 1, 2] = 0.03
    selection = SlotSelection(min_side=4.0)
    assert choose(selection, boxes).query.tolist() == [0, 2]
    assert choose(selection, boxes, sizes=[(100, 200)]).query.tolist() == [0, 1, 2]  # 6 pixels wide
    assert choose(selection, boxes, sizes=[(40, 200)]).query.tolist() == []  # 3.2 pixels high


def test_choosing_builds_no_graph() -> None:
    assert not choose(SlotSelection(), apart(4).clone().requires_grad_()).boxes.requires_grad


def test_unknown_filters_and_no_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SLOT_FILTERS knows .*unmatched.*, not \['novel'\]"):
        SlotSelection(filters=("unmatched", "novel"))
    with pytest.raises(ValueError, match="NUM_SLOTS must be at least 1, got 0"):
        SlotSelection(num_slots=0)
