"""Taught queries: which queries listen to the teacher, and which regions they are taught.

B images, Q queries, S slots of an image, C channels, N regions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.teachers import Teacher, stored_candidates
from dk_detr.extensions import Plan, TrainingInputs, TrainingOutputs
from dk_detr.structures import DETECTION, Assignment, QueryGroup, RegionKnowledge, Regions, TeacherInput
from dk_detr.utils import timed

AUXILIARY = "auxiliary"


@dataclass(frozen=True)
class DistillationPlan(Plan):
    """What a step of distillation knows before decoding.

    Attributes:
        groups: decoded beside the detection queries.
        knowledge: called after matching, with the detections' assignment in the last layer: regions, `query` counting
            within the taught group, and what the teacher sees in them. Asked again it gives the same.
        students: of what was decoded, regions and a decoder layer, what that layer says of them: (N, E) in the
            teacher's space, not normalised.
    """

    knowledge: Callable[[Assignment], RegionKnowledge]
    students: Callable[[TrainingOutputs, Regions, int], Tensor]


class TaughtQueries(nn.Module, ABC):
    """Makes the plan of a step.

    Args:
        teacher: answers for regions. slots: which are distilled.
    """

    def __init__(self, teacher: Teacher, slots: SlotSelection) -> None:
        super().__init__()
        self.teacher, self.slots = teacher, slots

    @abstractmethod
    def forward(self, inputs: TrainingInputs) -> DistillationPlan:
        """Before decoding."""

    def ask_before_decoding(self, inputs: TrainingInputs) -> tuple[Regions, Callable[[], Tensor]]:
        """Regions that are chosen without knowing what is matched, and the teacher's answer: on a GPU it thinks while
        the detector decodes."""
        shown = teacher_input(inputs)
        candidates = self.teacher.candidates(shown, inputs.initial)
        regions = self.slots(candidates.boxes, candidates.objectness, None, inputs.targets, inputs.images.image_sizes)
        with timed("teacher"):
            return regions, self.teacher.ask(shown, regions)


class DetectionQueries(TaughtQueries):
    """The detection queries themselves are taught: the paper's ablation. Slots are chosen after matching."""

    taught = DETECTION

    def forward(self, inputs: TrainingInputs) -> DistillationPlan:
        """See `TaughtQueries`."""
        shown, initial = teacher_input(inputs), inputs.initial
        boxes, objectness = initial.group.reference, initial.objectness
        assert boxes is not None and objectness is not None  # from_config.py lets no other queries pass

        def knowledge(assignment: Assignment) -> RegionKnowledge:
            regions = self.slots(boxes, objectness, assignment, inputs.targets, shown.image_sizes)
            with timed("teacher"):
                return RegionKnowledge(regions, self.teacher.ask(shown, regions)())

        return DistillationPlan(self.groups(initial.group), _once(knowledge), _said_by(self.taught))

    def groups(self, detection: QueryGroup) -> tuple[QueryGroup, ...]:
        """What is decoded beside the detection queries."""
        return ()


class AuxiliaryQueries(DetectionQueries):
    """One for each detection query, at the same place, as published: slots are chosen among them after matching.

    Args:
        num_queries: Q. channels: C. attends_to: groups that they see in self-attention.
        reference: "follow" the refined boxes of the detection queries, or "stay" at the proposals, where the teacher
            looks.
    """

    taught = AUXILIARY

    def __init__(
        self,
        teacher: Teacher,
        slots: SlotSelection,
        num_queries: int,
        channels: int,
        attends_to: Sequence[str] = (AUXILIARY,),
        reference: str = "follow",
    ) -> None:
        super().__init__(teacher, slots)
        self.content, self.attends_to = _contents(num_queries, channels), tuple(attends_to)
        self.reference_from = DETECTION if reference == "follow" else None

    def groups(self, detection: QueryGroup) -> tuple[QueryGroup, ...]:
        """Same positions and references, learned content."""
        auxiliary = QueryGroup(
            AUXILIARY,
            content=_of_each_image(self.content.weight[: len(detection)], detection),
            position=detection.position,
            reference=detection.reference,
            attends_to=self.attends_to,
            reference_from=self.reference_from,
            valid=detection.valid,
        )
        return (auxiliary,)


class SelectedAuxiliaryQueries(TaughtQueries):
    """Only for the slots that are distilled, which are chosen before decoding: few queries more, and the teacher
    works while the detector decodes.

    Args:
        channels: C. attends_to: groups that they see in self-attention.
    """

    def __init__(
        self, teacher: Teacher, slots: SlotSelection, channels: int, attends_to: Sequence[str] = (AUXILIARY,)
    ) -> None:
        super().__init__(teacher, slots)
        self.content, self.attends_to = _contents(slots.num_slots, channels), tuple(attends_to)

    def forward(self, inputs: TrainingInputs) -> DistillationPlan:
        """See `TaughtQueries`."""
        regions, answer = self.ask_before_decoding(inputs)
        packed, boxes, filled = _pack(regions, len(inputs.initial.group.content), self.slots.num_slots)

        def knowledge(_: Assignment) -> RegionKnowledge:
            return RegionKnowledge(packed, answer())

        detection = inputs.initial.group
        auxiliary = QueryGroup(
            AUXILIARY,
            content=_of_each_image(self.content.weight, detection),
            position=inputs.queries.position_of(boxes, detection.content.dtype),
            reference=boxes,
            attends_to=self.attends_to,
            reference_from=None,
            valid=None if len(regions) == filled.numel() else filled,
        )
        return DistillationPlan((auxiliary,), _once(knowledge), _said_by(AUXILIARY))


class TaughtROIHead(TaughtQueries):
    """No queries: the detector's ROI head reads the regions that the teacher sees, and is taught."""

    def forward(self, inputs: TrainingInputs) -> DistillationPlan:
        """See `TaughtQueries`."""
        head, memory = inputs.roi_head, inputs.memory
        assert head is not None  # build.py makes it by the key that makes this
        regions, answer = self.ask_before_decoding(inputs)
        return DistillationPlan(
            groups=(),
            knowledge=lambda _: RegionKnowledge(regions, answer()),
            students=lambda _, asked, __: head(asked.boxes, asked.image, memory),
        )


def _once(know: Callable[[Assignment], RegionKnowledge]) -> Callable[[Assignment], RegionKnowledge]:
    """The teacher is asked one time in a step."""
    known: list[RegionKnowledge] = []

    def knowledge(assignment: Assignment) -> RegionKnowledge:
        if not known:
            known.append(know(assignment))
        return known[0]

    return knowledge


def _said_by(group: str) -> Callable[[TrainingOutputs, Regions, int], Tensor]:
    """By the queries of a group."""

    def students(outputs: TrainingOutputs, regions: Regions, layer: int) -> Tensor:
        hidden_states, _ = outputs.trace.of(group)
        return outputs.heads.image_embeddings(hidden_states[layer, regions.image, regions.query], layer)

    return students


def teacher_input(inputs: TrainingInputs) -> TeacherInput:
    """What a teacher is shown of a step."""
    images = inputs.images
    stored = stored_candidates(inputs.batched_inputs, images.tensor.device)
    return TeacherInput(images.tensor, images.image_sizes, stored)


def _contents(number: int, channels: int) -> nn.Embedding:
    """Zero, not noise: all slots start alike, and near what detection queries know. Noise cost the mini world 7 points
    of base and 5 of novel AP50 (configs/mini/README.md)."""
    content = nn.Embedding(number, channels)
    nn.init.zeros_(content.weight)
    return content


def _of_each_image(content: Tensor, detection: QueryGroup) -> Tensor:
    return content.to(detection.content.dtype).expand(len(detection.content), -1, -1)


def _pack(regions: Regions, num_images: int, num_slots: int) -> tuple[Regions, Tensor, Tensor]:
    """The regions of each image in its first slots: as regions of these slots, as (B, S, 4) boxes (an empty slot holds
    the whole image), and (B, S) bool, which slots are filled."""
    first = torch.searchsorted(regions.image, regions.image)
    slot = torch.arange(len(regions), device=first.device) - first
    boxes = regions.boxes.new_tensor([0.5, 0.5, 1.0, 1.0]).repeat(num_images, num_slots, 1)
    boxes[regions.image, slot] = regions.boxes
    filled = torch.zeros(num_images, num_slots, dtype=torch.bool, device=boxes.device)
    filled[regions.image, slot] = True
    return Regions(regions.image, slot, regions.boxes), boxes, filled
