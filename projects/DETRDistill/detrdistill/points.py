"""Queries that both detectors answer: the teacher's own, and random ones. They pair by their places, without matching.

B images, M queries of the teacher, C channels.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dk_detr.extensions import TrainingInputs
from dk_detr.modeling import Queries
from dk_detr.structures import DETECTION, QueryGroup
from projects.DETRDistill.detrdistill.side import Side

SPECIFIC, GENERAL = "of_teacher", "random"
"""Names of query groups; "specific" and "general" distillation points in KD-DETR."""


def random_queries(group: QueryGroup, queries: Queries) -> QueryGroup:
    """As many as the detection queries of a detector, drawn anew for each image: boxes from DAB-DETR's first ones,
    sigmoid(N(0, 1)); contents and positional codes as the box says, or from normal distributions as wide as its own.

    Args:
        group: the detection queries. queries: what made them.
    """
    boxes, dtype = _random_boxes(group), group.content.dtype
    content = None if boxes is None else queries.content_of(boxes, dtype)
    position = None
    if group.position is not None:
        position = queries.position_of(boxes, group.position.dtype) if boxes is not None else _as_wide(group.position)
    points = None if position is None else queries.points_of(position)
    return replace(
        group,
        name=GENERAL,
        content=_as_wide(group.content) if content is None else content,
        position=position,
        reference=boxes if points is None else points,
        attends_to=(GENERAL,),
        reference_from=GENERAL,
        blocked=None,
        valid=None,
    )


def _random_boxes(group: QueryGroup) -> Tensor | None:
    """None where queries do not start from boxes."""
    reference = group.reference
    return torch.randn_like(reference).sigmoid() if reference is not None and reference.shape[-1] == 4 else None


def _as_wide(values: Tensor) -> Tensor:
    return torch.randn_like(values) * values.std()


def student_name(group: QueryGroup) -> str:
    """What a group of the teacher's queries is called among the student's."""
    return SPECIFIC if group.name == DETECTION else group.name


class QueryTransfer(nn.Module):
    """Makes queries of the student of queries of the teacher; its detection queries do not see them. Nothing of the
    teacher learns from them.

    Args:
        student, teacher: the two detectors. reference: who reads the reference points of the teacher's own queries off
            their positional codes, "teacher" or "student".
    """

    def __init__(self, student: Side, teacher: Side, reference: str = "teacher") -> None:
        super().__init__()
        _require_same_start(student, teacher)
        self.boxes, self.reference = student.reference_width == 4, reference
        self.content = _adapter(teacher.channels, student.channels)
        self.position = nn.Identity() if self.boxes else _adapter(teacher.channels, student.channels)

    def forward(self, group: QueryGroup, inputs: TrainingInputs) -> QueryGroup:
        """`group`: of the teacher, without gradient."""
        name, dtype = student_name(group), inputs.memory.tokens.dtype
        position, reference = self._place(group, inputs, dtype)
        return replace(
            group,
            name=name,
            content=self.content(group.content.to(dtype)),
            position=position,
            reference=reference,
            attends_to=(name,),
            reference_from=name,
        )

    def _place(
        self, group: QueryGroup, inputs: TrainingInputs, dtype: torch.dtype
    ) -> tuple[Tensor | None, Tensor | None]:
        """Positional codes of the student, and references."""
        if self.boxes:
            assert group.reference is not None  # as both start from boxes
            return inputs.queries.position_of(group.reference, dtype), group.reference
        assert group.position is not None  # queries without boxes have codes
        position = self.position(group.position.to(dtype))
        anew = self.reference == "student" and group.name == DETECTION
        return position, inputs.queries.points_of(position) if anew else group.reference


def _adapter(theirs: int, ours: int) -> nn.Module:
    return nn.Identity() if theirs == ours else nn.Linear(theirs, ours, bias=False)


REFERENCES = ("teacher", "student")


def _require_same_start(student: Side, teacher: Side) -> None:
    kinds = {0: "neither points nor boxes", 2: "points", 4: "boxes"}
    if student.reference_width != teacher.reference_width:
        raise ValueError(
            "The teacher's queries cannot be given to the student: the student's start from "
            f"{kinds[student.reference_width]}, the teacher's from {kinds[teacher.reference_width]} "
            '(MODEL.DETR.QUERIES). Take "query_prior_assignment", "kd_detr" and "query_embeddings" out of '
            "MODEL.DETRDISTILL.TERMS, or choose another teacher."
        )
