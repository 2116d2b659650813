"""DETRDistill, the training extension: a teacher looks at the student's images, and terms say what is taken over."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.extensions import BuildContext, Plan, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.structures import Targets
from dk_detr.utils import choose, require
from projects.DETRDistill.detrdistill.features import TAPS
from projects.DETRDistill.detrdistill.objects import TeachersObjects, objects_from_config
from projects.DETRDistill.detrdistill.points import REFERENCES, SPECIFIC, QueryTransfer, student_name
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.stages import stage_pairs
from projects.DETRDistill.detrdistill.step import Step, TeacherOutputs
from projects.DETRDistill.detrdistill.teacher import TeacherDetector, load_teacher, words_for
from projects.DETRDistill.detrdistill.terms import CLASSES, LAYERS, POINTS, TERMS, VARIANTS, Term


@dataclass(frozen=True)
class DETRDistillPlan(Plan):
    """`teacher` waits for what the teacher says of the batch."""

    teacher: Callable[[], TeacherOutputs]


class DETRDistill(TrainingExtension[DETRDistillPlan]):
    """Any number of terms; the teacher is asked once a step.

    Args:
        teacher: the detector that teaches. terms: by name. depth: decoder layers of the student. criterion: the losses
            of its detections. transfer: makes the student's queries of the teacher's; None where no term asks.
        objects: what the teacher takes for objects, for the student's first stage; None for none.

    Source: DETRDistill, Chang et al. (ICCV 2023).
    """

    prefix, has_teacher = "dd_", True

    @configurable
    def __init__(
        self,
        teacher: TeacherDetector,
        terms: Mapping[str, Term],
        depth: int,
        criterion: SetCriterion,
        transfer: QueryTransfer | None = None,
        objects: TeachersObjects | None = None,
    ) -> None:
        super().__init__()
        self.choose_objects = objects
        self.teacher, self.criterion = teacher, criterion
        self.terms, self.transfer = nn.ModuleDict(terms), transfer
        self.groups = sorted({group for term in terms.values() for group in term.groups})
        self.stages = stage_pairs(depth, teacher.side.depth)

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        student = Side.of("student", cfg.MODEL.DETR.CHANNELS, context.network)
        return parts_of(load_teacher(cfg), student, context, cfg.MODEL.DETRDISTILL)

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
        _refuse_bad_names(kd)
        _refuse_bad_numbers(kd)

    def prepare(self, inputs: TrainingInputs) -> DETRDistillPlan:
        """See `TrainingExtension`."""
        teacher = self.teacher.ask(inputs, self.groups)
        if self.transfer is None:
            return DETRDistillPlan((), teacher)
        wanted = [group for group in teacher().groups if student_name(group) in self.groups]
        return DETRDistillPlan(tuple(self.transfer(group, inputs) for group in wanted), teacher)

    def pseudo_objects(
        self, plan: DETRDistillPlan, inputs: TrainingInputs, outputs: TrainingOutputs
    ) -> Targets | None:
        """See `TrainingExtension`."""
        return None if self.choose_objects is None else self.choose_objects(plan.teacher(), inputs)

    def supervise(self, plan: DETRDistillPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`: `loss_dd_<term>_<part>`."""
        step = Step(inputs, outputs, plan.teacher(), self.stages, self.criterion)
        return {
            f"loss_{self.prefix}{name}_{part}".rstrip("_"): loss
            for name, term in self.terms.items()
            for part, loss in term(step).items()
        }


def parts_of(teacher: Any, student: Side, context: BuildContext, kd: CfgNode) -> dict[str, Any]:
    """The arguments of `DETRDistill`.

    Args:
        teacher: its detector, how it sees images, and what it is called, see `load_teacher`. kd: MODEL.DETRDISTILL.

    Raises: ValueError for two detectors that cannot be paired, naming both.
    """
    model, sight, name = teacher
    side = Side.of("teacher", model.classifier.projections[0].in_features, dict(model.named_children()))
    terms = {term: TERMS[term].build(kd, student, side) for term in kd.TERMS}
    words = words_for(model, student, side, context.train_vocabulary, terms.values(), name)
    groups = {group for term in terms.values() for group in term.groups}
    if groups:
        _refuse_points_of_two(kd, student)
    reference = kd.QUERY_PRIOR_ASSIGNMENT.REFERENCE
    return {
        "teacher": TeacherDetector(model, side, words, sight),
        "terms": terms,
        "depth": student.depth,
        "criterion": context.criterion,
        "transfer": QueryTransfer(student, side, reference) if groups else None,
        "objects": objects_from_config(kd, model.proposes),
    }


def _refuse_points_of_two(kd: CfgNode, student: Side) -> None:
    """Queries that pair by their places must start at the same ones."""
    pairs = [name for name in kd.TERMS if name == "query_embeddings" or (name == "kd_detr" and _has_specific(kd))]
    if kd.QUERY_PRIOR_ASSIGNMENT.REFERENCE == "student" and student.reference_width == 2 and pairs:
        raise ValueError(
            'With MODEL.DETRDISTILL.QUERY_PRIOR_ASSIGNMENT.REFERENCE "student" the teacher\'s queries start at other '
            f'points in the student, and the term "{pairs[0]}" compares what both say at the same: set the former to '
            '"teacher".'
        )


def _has_specific(kd: CfgNode) -> bool:
    return any(POINTS[name] == SPECIFIC for name in kd.KD_DETR.POINTS)


def _refuse_bad_names(kd: CfgNode) -> None:
    choices = {
        "TAP": TAPS,
        "HUNGARIAN_LOGITS.VARIANT": VARIANTS,
        "TARGET_AWARE_FEATURES.VARIANT": VARIANTS,
        "QUERY_PRIOR_ASSIGNMENT.VARIANT": VARIANTS,
        "QUERY_PRIOR_ASSIGNMENT.REFERENCE": REFERENCES,
        "KD_DETR.LAYERS": LAYERS,
        "KD_DETR.CLASSES": CLASSES,
    }
    for key, names in choices.items():
        node = kd
        for part in key.split("."):
            node = node[part]
        require(f"MODEL.DETRDISTILL.{key}", node, names)
    if not kd.KD_DETR.POINTS:
        raise ValueError('MODEL.DETRDISTILL.KD_DETR.POINTS is []: name "specific", "general" or both.')
    for points in kd.KD_DETR.POINTS:
        require("MODEL.DETRDISTILL.KD_DETR.POINTS", points, POINTS)


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


def _numbers(node: CfgNode, prefix: str) -> Iterator[tuple[str, float]]:
    for name, value in node.items():
        if isinstance(value, CfgNode):
            yield from _numbers(value, f"{prefix}.{name}")
        elif isinstance(value, float):
            yield f"{prefix}.{name}", value
