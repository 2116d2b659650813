"""DETRDistill, the training extension: a teacher looks at the student's images, and terms say what is taken over."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.extensions import BuildContext, Plan, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.structures import DETECTION, QueryGroup
from dk_detr.utils import choose, require
from projects.DETRDistill.detrdistill.features import TAPS
from projects.DETRDistill.detrdistill.points import SPECIFIC, ForStudent
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.stages import stage_pairs
from projects.DETRDistill.detrdistill.step import Said, Step
from projects.DETRDistill.detrdistill.teacher import TeacherDetector, teacher_from_config
from projects.DETRDistill.detrdistill.terms import POINTS, TERMS, VARIANTS, Term


@dataclass(frozen=True)
class DETRDistillPlan(Plan):
    """`said` waits for what the teacher says of the batch."""

    said: Callable[[], Said]


class DETRDistill(TrainingExtension[DETRDistillPlan]):
    """Any number of terms; the teacher is asked once a step.

    Args:
        teacher: the detector that teaches. terms: by name. depth: decoder layers of the student. criterion: the losses
            of its detections. for_student: what makes the teacher's queries the student's; None where no term asks.

    Source: DETRDistill, Chang et al. (ICCV 2023).
    """

    prefix = "dd_"

    @configurable
    def __init__(
        self,
        teacher: TeacherDetector,
        terms: dict[str, Term],
        depth: int,
        criterion: SetCriterion,
        for_student: ForStudent | None = None,
    ) -> None:
        super().__init__()
        self.teacher, self.criterion = teacher, criterion
        self.terms, self.for_student = nn.ModuleDict(terms), for_student
        self.groups = sorted({group for term in terms.values() for group in term.groups})
        self.stages = stage_pairs(depth, teacher.side.depth)

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        kd, student = cfg.MODEL.DETRDISTILL, Side.of("student", cfg.MODEL.DETR.CHANNELS, context.network)
        teacher = teacher_from_config(cfg, student.classifier, context.train_vocabulary)
        terms = {name: TERMS[name].build(kd, student, teacher.side) for name in kd.TERMS}
        reference = "student" if kd.VARIANT == "release" else kd.QUERY_PRIOR_ASSIGNMENT.REFERENCE
        asked = any(term.groups for term in terms.values())
        return {
            "teacher": teacher,
            "terms": terms,
            "depth": student.depth,
            "criterion": context.criterion,
            "for_student": ForStudent(student, teacher.side, reference) if asked else None,
        }

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode, name: str) -> None:
        """See `TrainingExtension`."""
        named, kd = cfg.MODEL.TEACHER_DETECTOR, cfg.MODEL.DETRDISTILL
        for key, what in (("CONFIG", "the file of its config"), ("WEIGHTS", "its weights")):
            if not named[key]:
                raise ValueError(
                    f'MODEL.TRAINING_EXTENSIONS names "{name}", and MODEL.TEACHER_DETECTOR.{key} is "": name {what}, '
                    f'or take "{name}" out.'
                )
        if not kd.TERMS:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS names "{name}", but MODEL.DETRDISTILL.TERMS is []: name what is to be '
                f'learned, such as ["hungarian_logits"], or take "{name}" out.'
            )
        for term in kd.TERMS:
            choose(TERMS, "MODEL.DETRDISTILL.TERMS", term)
        require("MODEL.DETRDISTILL.VARIANT", kd.VARIANT, VARIANTS)
        require("MODEL.DETRDISTILL.TAP", kd.TAP, TAPS)
        require("MODEL.DETRDISTILL.QUERY_PRIOR_ASSIGNMENT.REFERENCE", kd.QUERY_PRIOR_ASSIGNMENT.REFERENCE, REFERENCES)
        _refuse_bad_numbers(kd)

    def prepare(self, inputs: TrainingInputs) -> DETRDistillPlan:
        """See `TrainingExtension`."""
        said = self.teacher.ask(inputs, self.groups)
        return DETRDistillPlan(tuple(self._queries(said, inputs)) if self.groups else (), said)

    def _queries(self, said: Callable[[], Said], inputs: TrainingInputs) -> Sequence[QueryGroup]:
        """The teacher's as the student's."""
        assert self.for_student is not None  # as `groups` says
        of_teacher = [SPECIFIC if group.name == DETECTION else group.name for group in said().groups]
        wanted = zip(of_teacher, said().groups)
        return [self.for_student(group, inputs) for name, group in wanted if name in self.groups]

    def supervise(self, plan: DETRDistillPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`: `loss_dd_<term>_<part>`."""
        said = plan.said()
        assignment = self.criterion.match(said.detections, inputs.targets, "of_teacher_")
        step = Step(inputs, outputs, said, assignment, self.stages, self.criterion)
        return {
            f"loss_{self.prefix}{name}_{part}".rstrip("_"): loss
            for name, term in self.terms.items()
            for part, loss in term(step).items()
        }


REFERENCES = ("teacher", "student")


def _refuse_bad_numbers(kd: CfgNode) -> None:
    """Weights and costs are 0 or more; what divides is above 0."""
    for key, value in _numbers(kd, "MODEL.DETRDISTILL"):
        if not 0 <= value < math.inf or (value == 0 and key.endswith("TEMPERATURE")):
            least = "above 0" if key.endswith("TEMPERATURE") else "0 or more"
            raise ValueError(f"{key} must be {least}, got {value}.")
    if kd.MGD.MASKED >= 1:
        raise ValueError(f"MODEL.DETRDISTILL.MGD.MASKED is a share below 1, got {kd.MGD.MASKED}.")
    if kd.TARGET_AWARE_FEATURES.GAMMA > 1:
        raise ValueError(
            f"MODEL.DETRDISTILL.TARGET_AWARE_FEATURES.GAMMA is in [0, 1], got {kd.TARGET_AWARE_FEATURES.GAMMA}."
        )
    if not kd.KD_DETR.POINTS:
        raise ValueError('MODEL.DETRDISTILL.KD_DETR.POINTS is []: name "specific", "general" or both.')
    for points in kd.KD_DETR.POINTS:
        choose(POINTS, "MODEL.DETRDISTILL.KD_DETR.POINTS", points)


def _numbers(node: CfgNode, prefix: str) -> list[tuple[str, float]]:
    found = []
    for name, value in node.items():
        key = f"{prefix}.{name}"
        if isinstance(value, CfgNode):
            found += _numbers(value, key)
        elif isinstance(value, float):
            found.append((key, value))
    return found
