"""Query-prior assignment distillation: the teacher's queries, in the student, answer for the objects that they answer
for in the teacher. A stable assignment, while the student's own still changes."""

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.structures import Assignment
from projects.DETRDistill.detrdistill.points import SPECIFIC
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term

STAGE = f"{SPECIFIC}_"  # in what is recorded beside the losses


class QueryPriorAssignment(Term):
    """The losses of detections, of the teacher's queries. Those that it matched with nothing are no object.

    Args:
        weight: λ3. variant: "paper", by the teacher's assignment; "release" matches the student's predictions anew.

    Source: DETRDistill (ICCV 2023), eq. 10. The release computes the teacher's assignment and does not use it.
    """

    groups = (SPECIFIC,)

    def __init__(self, weight: float = 1.0, variant: str = "paper") -> None:
        super().__init__()
        self.weight, self.variant = weight, variant

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "QueryPriorAssignment":
        """See `Term`."""
        return cls(kd.QUERY_PRIOR_ASSIGNMENT.WEIGHT, kd.QUERY_PRIOR_ASSIGNMENT.VARIANT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        predictions = step.outputs.predictions[SPECIFIC]
        if self.variant == "release":
            assignment = step.criterion.match(predictions, step.targets, STAGE)
        else:
            assignment = of_layers(step.assignment, step.stages.last_of_each)
        losses = step.criterion.losses(predictions, step.targets, assignment, step.inputs.num_objects, STAGE)
        return {name.removeprefix(f"loss_{STAGE}"): self.weight * loss for name, loss in losses.items()}


def of_layers(assignment: Assignment, layers: tuple[int, ...]) -> Assignment:
    """An assignment of other layers: the first is as `layers[0]` of the one that is given, and so on."""
    parts = [assignment.of_layer(layer) for layer in layers]
    numbers = [torch.full_like(part.layer, number) for number, part in enumerate(parts)]
    rest = (torch.cat([getattr(part, name) for part in parts]) for name in ("image", "query", "target"))
    return Assignment(torch.cat(numbers), *rest)
