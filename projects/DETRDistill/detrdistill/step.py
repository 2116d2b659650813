"""What a term looks at in a training step: what both detectors made of the same images.

D layers, B images, M queries of the teacher, C channels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from dk_detr.criterion import SetCriterion
from dk_detr.extensions import TrainingInputs, TrainingOutputs
from dk_detr.structures import DETECTION, Assignment, FeaturePyramid, Memory, Predictions, QueryGroup, Targets
from projects.DETRDistill.detrdistill.stages import StagePairs, in_pairs


@dataclass(frozen=True)
class TeacherOutputs:
    """What the teacher says of a batch, without gradient; see `Trace`, `Memory` and `FeaturePyramid`.

    Attributes:
        pyramid: levels of its neck. memory: of its encoder. objectness: (B, M) logits of its proposals; None for none.
        groups: its queries, the detection queries first. hidden_states: by group, (D, B, M, C).
        predictions: by group, against the words of the student's training.
        embeddings: (D, B, M, E) of its detection queries in the space of the text; None where it has none.
    """

    pyramid: FeaturePyramid
    memory: Memory
    objectness: Tensor | None
    groups: tuple[QueryGroup, ...]
    hidden_states: Mapping[str, Tensor]
    predictions: Mapping[str, Predictions]
    embeddings: Tensor | None

    @property
    def detections(self) -> Predictions:
        """Of its detection queries."""
        return self.predictions[DETECTION]


@dataclass(frozen=True)
class Step:
    """One training step.

    Attributes:
        inputs, outputs: of the student, see `TrainingExtension`. teacher: what it says of the same images.
        stages: who learns from whom. criterion: the losses of the student's detections.
    """

    inputs: TrainingInputs
    outputs: TrainingOutputs
    teacher: TeacherOutputs
    stages: StagePairs
    criterion: SetCriterion

    @property
    def targets(self) -> Targets:
        """The ground truth."""
        return self.inputs.targets

    @cached_property
    def assignment(self) -> Assignment:
        """Of the teacher's detections, in all its layers, to the ground truth."""
        return self.criterion.match(self.teacher.detections, self.targets, "of_teacher")

    @property
    def box_form(self) -> Callable[[Tensor], Tensor]:
        """What the student's L1 loss makes of boxes (…, 4) cxcywh."""
        form: Callable[[Tensor], Tensor] = self.criterion.terms["l1"].form  # type: ignore[attr-defined]
        return form

    def in_pairs(
        self, group: str, of_teacher: str = DETECTION, stages: StagePairs | None = None
    ) -> tuple[Predictions, Predictions]:
        """What a group of the student's queries and one of the teacher's say, by pairs of layers."""
        stages = stages or self.stages
        ours, theirs = self.outputs.predictions[group], self.teacher.predictions[of_teacher]
        return in_pairs(ours, stages.student), in_pairs(theirs, stages.teacher)
