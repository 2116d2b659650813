"""Companions: the queries beside the detection queries that listen to the teacher, and which of them are taught.

B images, Q queries, S slots of an image, C channels, N regions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.teachers import Teacher
from dk_detr.modeling import FirstStage
from dk_detr.structures import Assignment, QueryGroup, RegionKnowledge, Regions, Scene, Targets, hide
from dk_detr.structures.queries import DETECT
from dk_detr.utils import timed

DISTIL = "distil"
PositionOf = Callable[[Tensor, torch.dtype], Tensor | None]


@dataclass(frozen=True)
class Lesson:
    """What a training step of the branch knows before decoding.

    Attributes:
        added: groups that are decoded beside the detection queries. group: the name of those that are taught.
        knowledge: called after matching, with the detections' assignment in the last layer: regions, `query` counting
            within the group, and what the teacher sees in them.
    """

    added: tuple[QueryGroup, ...]
    group: str
    knowledge: Callable[[Assignment], RegionKnowledge]


class Companions(nn.Module, ABC):
    """Makes the lesson of a step.

    Args:
        teacher: answers for regions. slots: which are distilled.
    """

    def __init__(self, teacher: Teacher, slots: SlotSelection) -> None:
        super().__init__()
        self.teacher, self.slots = teacher, slots

    @abstractmethod
    def forward(self, scene: Scene, first_stage: FirstStage, targets: Targets, position_of: PositionOf) -> Lesson:
        """Before decoding.

        Args:
            position_of: (B, S, 4) boxes cxcywh in [0, 1], dtype -> (B, S, C) where a query of the detector looks, or
                None where the decoder derives that.
        """


class NoCompanions(Companions):
    """The detection queries themselves are taught: the paper's ablation."""

    group = DETECT

    def forward(self, scene: Scene, first_stage: FirstStage, targets: Targets, position_of: PositionOf) -> Lesson:
        """See `Companions`; slots are chosen after matching."""
        boxes, objectness = first_stage.group.reference, first_stage.objectness
        assert boxes is not None and objectness is not None  # what build.py makes sure of

        def knowledge(assignment: Assignment) -> RegionKnowledge:
            regions = self.slots(boxes, objectness, assignment, targets, scene.image_sizes)
            with timed("teacher"):
                return RegionKnowledge(regions, self.teacher.ask(scene, regions)())

        return Lesson(self.beside(first_stage.group), self.group, knowledge)

    def beside(self, detect: QueryGroup) -> tuple[QueryGroup, ...]:
        """What is decoded beside the detection queries."""
        return ()


class AllCompanions(NoCompanions):
    """One for each detection query, at the same place, as published: slots are chosen among them after matching.

    Args:
        num_queries: Q. channels: C. reads: groups that the companions see in self-attention.
        reference: "follow" the refined boxes of the detection queries, or "stay" at the proposals, where the teacher
            looks.
    """

    group = DISTIL

    def __init__(
        self,
        teacher: Teacher,
        slots: SlotSelection,
        num_queries: int,
        channels: int,
        reads: Sequence[str] = (DISTIL,),
        reference: str = "follow",
    ) -> None:
        super().__init__(teacher, slots)
        self.content, self.reads = _contents(num_queries, channels), tuple(reads)
        self.steered_by = DETECT if reference == "follow" else None

    def beside(self, detect: QueryGroup) -> tuple[QueryGroup, ...]:
        """Same positions and boxes, learned content."""
        content = _of_each_image(self.content.weight[: len(detect)], detect)
        place = (detect.position, detect.reference)
        return (QueryGroup(DISTIL, content, *place, self.reads, self.steered_by, detect.blocked),)


class ChosenCompanions(Companions):
    """Only for the slots that are distilled, which are chosen before decoding: few queries more, and the teacher
    works while the detector decodes.

    Args:
        channels: C. reads: groups that the companions see in self-attention.
    """

    def __init__(self, teacher: Teacher, slots: SlotSelection, channels: int, reads: Sequence[str] = (DISTIL,)) -> None:
        super().__init__(teacher, slots)
        self.content, self.reads = _contents(slots.num_slots, channels), tuple(reads)

    def forward(self, scene: Scene, first_stage: FirstStage, targets: Targets, position_of: PositionOf) -> Lesson:
        """See `Companions`."""
        seen = self.teacher.candidates(scene, first_stage)
        regions = self.slots(seen.boxes, seen.objectness, None, targets, scene.image_sizes)
        with timed("teacher"):
            answer = self.teacher.ask(scene, regions)
        seated, boxes, taken = _seats(regions, len(seen.boxes), self.slots.num_slots)

        def knowledge(_: Assignment) -> RegionKnowledge:
            return RegionKnowledge(seated, answer())

        detect = first_stage.group
        content = _of_each_image(self.content.weight, detect)
        blocked = None if len(regions) == taken.numel() else hide(taken)
        own = QueryGroup(DISTIL, content, position_of(boxes, detect.content.dtype), boxes, self.reads, None, blocked)
        return Lesson((own,), DISTIL, knowledge)


def _contents(number: int, channels: int) -> nn.Embedding:
    """Zero, not noise: all slots start alike, and near what detection queries know. Noise cost the mini world 7 points
    of base and 5 of novel AP50 (configs/mini/README.md)."""
    content = nn.Embedding(number, channels)
    nn.init.zeros_(content.weight)
    return content


def _of_each_image(content: Tensor, detect: QueryGroup) -> Tensor:
    return content.to(detect.content.dtype).expand(len(detect.content), -1, -1)


def _seats(regions: Regions, num_images: int, num_seats: int) -> tuple[Regions, Tensor, Tensor]:
    """The regions of each image, which stand together, in a row: as regions of the new queries, as (B, S, 4) boxes
    (the whole image where a seat is free), and (B, S) bool, which are taken."""
    first = torch.searchsorted(regions.image, regions.image)
    seat = torch.arange(len(regions), device=first.device) - first
    boxes = regions.boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_images, num_seats, 1)
    boxes[regions.image, seat] = regions.boxes
    taken = torch.zeros(num_images, num_seats, dtype=torch.bool, device=boxes.device)
    taken[regions.image, seat] = True
    return Regions(regions.image, seat, regions.boxes), boxes, taken
