"""Which regions become objects without a label. N regions, K words."""

import torch
from torch import Tensor

from dk_detr.distillation.pseudo_objects import PseudoObjects
from dk_detr.structures import Regions, Targets
from tests.model_fixtures import targets_of

LEFT, MIDDLE, RIGHT = [0.2, 0.5, 0.2, 0.4], [0.5, 0.5, 0.2, 0.4], [0.8, 0.5, 0.2, 0.4]
LABELLED = targets_of(([3], [LEFT]), ([], []))


def regions(*pairs: tuple[int, list[float]]) -> Regions:
    """Boxes by their image."""
    images, boxes = zip(*pairs)
    return Regions(torch.tensor(images), torch.arange(len(images)), torch.tensor(boxes))


def chosen(belief: float, shown: Regions, *believed: list[float]) -> list[list[list[float]]]:
    """The boxes of each image."""
    objects: Targets = PseudoObjects(belief)(shown, torch.tensor(believed), LABELLED)
    assert all(not labels.any() for labels in objects.labels)
    assert [len(labels) for labels in objects.labels] == [len(boxes) for boxes in objects.boxes]
    return [_rounded(boxes) for boxes in objects.boxes]


def _rounded(boxes: Tensor) -> list[list[float]]:
    return [[round(side, 4) for side in box] for box in boxes.tolist()]


def test_what_the_teacher_takes_for_any_word_is_an_object() -> None:
    shown = regions((0, MIDDLE), (0, RIGHT), (1, LEFT))
    assert chosen(0.3, shown, [0.1, 0.3], [0.1, 0.29], [0.9, 0.0]) == [[MIDDLE], [LEFT]]


def test_what_has_a_label_is_none() -> None:
    """In its own image; in the other the same place is free."""
    shown = regions((0, LEFT), (1, LEFT))
    assert chosen(0.3, shown, [0.9, 0.9], [0.9, 0.9]) == [[], [LEFT]]


def test_overlap_with_a_label_counts_from_the_threshold_on() -> None:
    near = [0.3, 0.5, 0.2, 0.4]  # half of each lies in the other: IoU 1/3
    shown, believed = regions((0, near)), torch.tensor([[0.9]])
    assert len(PseudoObjects(0.3, 0.34)(shown, believed, LABELLED).labels[0]) == 1
    assert len(PseudoObjects(0.3, 0.33)(shown, believed, LABELLED).labels[0]) == 0


def test_no_region_is_no_object() -> None:
    nothing = Regions(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0, 4))
    objects = PseudoObjects(0.3)(nothing, torch.zeros(0, 2), LABELLED)
    assert [len(labels) for labels in objects.labels] == [0, 0]


def test_no_label_in_the_whole_batch() -> None:
    objects = PseudoObjects(0.3)(regions((0, LEFT)), torch.tensor([[0.9]]), targets_of(([], [])))
    assert _rounded(objects.boxes[0]) == [LEFT]
