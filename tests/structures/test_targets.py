"""Targets, Assignment and Trace: rows that are added, layers and groups that are picked out."""

import torch

from dk_detr.structures import Assignment, QueryGroup, QuerySet, Trace
from tests.model_fixtures import targets_of


def test_images_with_fewer_objects_are_filled_up_with_boxes_without_area() -> None:
    two = [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]
    targets = targets_of(([3], [[0.5, 0.5, 0.2, 0.2]]), ([], []), ([1, 2], two))
    labels, boxes = targets.padded
    assert targets.counts == [1, 0, 2]
    assert labels.tolist() == [[3, 0], [0, 0], [1, 2]]
    assert boxes.shape == (3, 2, 4) and not boxes[0, 1].any() and not boxes[1].any()
    torch.testing.assert_close(boxes[2, 1], torch.tensor(two[1]))


def test_a_batch_without_objects_has_shapes_that_can_be_indexed() -> None:
    labels, boxes = targets_of(([], []), ([], [])).padded
    assert labels.shape == (2, 0) and boxes.shape == (2, 0, 4)


def test_the_first_stage_learns_from_the_same_boxes_without_their_classes() -> None:
    targets = targets_of(([3, 1], [[0.5, 0.5, 0.2, 0.2]] * 2))
    agnostic = targets.class_agnostic()
    assert agnostic.labels[0].tolist() == [0, 0] and agnostic.boxes is targets.boxes
    assert targets.labels[0].tolist() == [3, 1]


def test_the_pairs_of_one_layer_can_be_picked_out() -> None:
    columns = [torch.tensor(column) for column in ([0, 1, 1], [0, 0, 1], [5, 6, 7], [0, 0, 1])]
    pairs = Assignment(*columns).of_layer(1)
    assert [column.tolist() for column in (pairs.layer, pairs.image, pairs.query, pairs.target)] == [
        [1, 1], [0, 1], [6, 7], [0, 1],
    ]  # fmt: skip


def test_the_pairs_of_one_layer_hold_in_every_layer() -> None:
    columns = [torch.tensor(column) for column in ([0, 0, 0], [0, 0, 1], [5, 6, 7], [1, 0, 1])]
    pairs = Assignment(*columns).of_all_layers(3)
    assert pairs.layer.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for layer in range(3):
        of_layer = pairs.of_layer(layer)
        for ours, given in zip((of_layer.image, of_layer.query, of_layer.target), columns[1:]):
            assert torch.equal(ours, given)


def test_no_pairs_are_no_pairs_in_every_layer() -> None:
    nothing = Assignment(*[torch.zeros(0, dtype=torch.long)] * 4).of_all_layers(3)
    assert [len(column) for column in (nothing.layer, nothing.image, nothing.query, nothing.target)] == [0] * 4
    assert nothing.layer.dtype == torch.long


def test_a_trace_gives_the_part_of_each_group() -> None:
    def group(name: str, size: int) -> QueryGroup:
        return QueryGroup(name, torch.zeros(1, size, 8), None, None, (name,), None)

    hidden, boxes = torch.rand(3, 1, 5, 8), torch.rand(3, 1, 5, 4)
    trace = Trace(hidden, boxes, QuerySet((group("detection", 2), group("auxiliary", 3))))
    assert torch.equal(trace.of("detection")[0], hidden[:, :, :2])
    assert torch.equal(trace.of("auxiliary")[1], boxes[:, :, 2:])
