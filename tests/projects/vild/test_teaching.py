"""Where the teacher looks: at stored regions where there are any, else at the best proposals of the moment."""

from typing import Any

import torch
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dk_detr.distillation import SlotSelection, StoredEmbeddings
from dk_detr.structures import Regions, TeacherInput
from projects.ViLD.vild.teaching import TaughtRegions, Teaching
from tests.projects.vild.vild_fixtures import stored_regions
from tests.run_fixtures import SIDE, WIDTH


class Numbering:
    """A teacher who remembers what it was asked, and answers with the left edge of each region."""

    width = 1

    def candidates(self, shown: TeacherInput, proposals: Any) -> Any:
        raise AssertionError("ViLD brings its own")

    def ask(self, shown: TeacherInput, regions: Regions) -> Any:
        left = regions.boxes[:, :1] - regions.boxes[:, 2:3] / 2
        return lambda: left * SIDE


def proposals(*lefts: float) -> Instances:
    """Boxes of side 8, the best first."""
    boxes = torch.tensor([[left, 0.0, left + 8, 8.0] for left in lefts]).reshape(-1, 4)
    return Instances((SIDE, SIDE), proposal_boxes=Boxes(boxes), objectness_logits=-torch.arange(float(len(lefts))))


def objects() -> Instances:
    return Instances((SIDE, SIDE), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))


def regions_taught_in(
    found: list[Instances], teacher: Any = None, count: int = 2, given: list[Any] | None = None
) -> TaughtRegions:
    images = ImageList(torch.zeros(len(found), 3, SIDE, SIDE), [(SIDE, SIDE)] * len(found))
    teaching = Teaching(teacher or Numbering(), SlotSelection(count, (), min_side=0.0))
    return teaching(images, given or [{}] * len(found), found, [objects()] * len(found))


def lefts(boxes: list[Boxes]) -> list[list[float]]:
    return [one.tensor[:, 0].tolist() for one in boxes]


def test_the_best_proposals_of_each_image_are_taught() -> None:
    taught = regions_taught_in([proposals(1, 2, 3), proposals(4)])
    assert lefts(taught.boxes) == [[1, 2], [4]]


def test_answers_stand_in_the_order_of_the_boxes() -> None:
    taught = regions_taught_in([proposals(1, 2, 3), proposals(4), proposals(5, 6)])
    in_order = torch.cat([one.tensor for one in taught.boxes])[:, 0]
    torch.testing.assert_close(taught.embeddings[:, 0], in_order)


def test_an_image_without_proposals_teaches_nothing() -> None:
    taught = regions_taught_in([proposals(), proposals(4)])
    assert lefts(taught.boxes) == [[], [4]] and len(taught.embeddings) == 1


def test_stored_regions_come_before_live_ones() -> None:
    rows = torch.eye(WIDTH)[:3]
    given = [{"regions": stored_regions([[8.0, 0, 16, 8], [16.0, 0, 24, 8], [24.0, 0, 32, 8]], rows)}]
    taught = regions_taught_in([proposals(1, 2)], StoredEmbeddings(WIDTH), given=given)
    assert lefts(taught.boxes) == [[8, 16]]
    torch.testing.assert_close(taught.embeddings, rows[:2])


def test_images_with_fewer_stored_regions_add_none() -> None:
    """Rows that fill up an image are no regions."""
    given = [{"regions": stored_regions([])}, {"regions": stored_regions([[0.0, 0, 8, 8]])}]
    taught = regions_taught_in([proposals(1), proposals(2)], StoredEmbeddings(WIDTH), given=given)
    assert lefts(taught.boxes) == [[], [0]] and taught.embeddings.shape == (1, WIDTH)


def test_no_gradient_reaches_the_first_stage_or_the_teacher() -> None:
    live = proposals(1, 2)
    live.proposal_boxes = Boxes(live.proposal_boxes.tensor.requires_grad_())
    taught: list[Tensor] = [*(one.tensor for one in regions_taught_in([live]).boxes)]
    assert not any(boxes.requires_grad for boxes in taught)
