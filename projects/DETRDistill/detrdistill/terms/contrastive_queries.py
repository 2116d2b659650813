"""Contrastive queries: of all queries of the batch, each of the teacher's is to find its partner in the student.

It is in DETRDistill's release and not in its paper. n pairs of queries, C channels.
"""

from collections.abc import Mapping

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.structures import DETECTION
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import Comparison, full_precision
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term

HIDDEN = 512


class ContrastiveQueries(Term):
    """InfoNCE between queries that are matched as the release matches predictions, all with all; sums over layers.

    Args:
        student, teacher: channels. activation: of both classifiers. cost: of matching. weight: of the loss.
        temperature: of the similarities.
    """

    def __init__(
        self,
        student: int,
        teacher: int,
        activation: str,
        cost: Mapping[str, float],
        weight: float = 0.2,
        temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.ours, self.theirs = _tower(student), _tower(teacher)
        self.activation, self.cost = activation, dict(cost)
        self.weight, self.temperature = weight, temperature

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "ContrastiveQueries":
        """See `Term`."""
        own, cost = kd.CONTRASTIVE_QUERIES, kd.HUNGARIAN_LOGITS.COST
        return cls(student.channels, teacher.channels, student.activation, cost, own.WEIGHT, own.TEMPERATURE)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        ours, theirs = step.in_pairs(DETECTION)
        pairs = Comparison(self.activation, step.box_form, self.cost).match_all(ours, theirs)
        hidden_states, _ = step.outputs.trace.of(DETECTION)
        said = step.stages.of_teacher(step.teacher.hidden_states[DETECTION])
        found = pairs.of(step.stages.of_student(hidden_states), said)
        losses = [self._of(*(rows[pairs.stage == stage] for rows in found)) for stage in range(len(said))]
        return {"": self.weight * (torch.stack(losses) * step.stages.weights(said)).sum()}

    def _of(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """(n, C) of one pair of layers, row by row partners."""
        if len(ours) < 2:  # nobody to be told from, and no batch to be normalised over
            return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0 + ours.sum() * 0
        a, b = F.normalize(self.ours(ours).float(), dim=1), F.normalize(self.theirs(theirs).float(), dim=1)
        with full_precision(a):
            return F.cross_entropy(b @ a.T / self.temperature, torch.arange(len(a), device=a.device))


def _tower(channels: int) -> nn.Sequential:
    """As released: a projection, then a perceptron whose hidden layer is normalised over the batch."""
    return nn.Sequential(
        nn.Linear(channels, HIDDEN),
        nn.Linear(HIDDEN, HIDDEN),
        nn.BatchNorm1d(HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
    )
