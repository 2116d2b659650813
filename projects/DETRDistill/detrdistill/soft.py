"""Soft labels: a student's predictions against those of a teacher, in the place of the ground truth.

P pairs of layers, B images, N queries of the student, M of the teacher, K classes, n pairs of queries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import generalized_iou, to_xyxy
from dk_detr.structures import Predictions
from dk_detr.utils import timed


@dataclass(frozen=True)
class Pairs:
    """n pairs of a query of the student and one of the teacher: (n,) each, with the pair of layers and the image."""

    stage: Tensor
    image: Tensor
    ours: Tensor
    theirs: Tensor

    def of(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(P, B, N, …) and (P, B, M, …) -> both (n, …), in full precision."""
        ours, theirs = student[self.stage, self.image, self.ours], teacher[self.stage, self.image, self.theirs]
        return ours.float(), theirs.float()


def full_precision(like: Tensor) -> torch.autocast:
    """The context in which products of matrices are not rounded to half floats, whatever the training does."""
    return torch.autocast(like.device.type, enabled=False)


def probabilities(logits: Tensor, activation: str) -> Tensor:
    """(…, K) logits, or (…, K + 1) for a softmax -> (…, K)."""
    logits = logits.float()
    return logits.sigmoid() if activation == "sigmoid" else logits.softmax(-1)[..., :-1]


def class_loss(ours: Tensor, theirs: Tensor, activation: str) -> Tensor:
    """(…, K) logits of both -> (…): binary cross-entropy with the teacher's probabilities, summed over classes; of a
    softmax the divergence of the student from the teacher."""
    if activation == "sigmoid":
        return F.binary_cross_entropy_with_logits(ours, theirs.sigmoid(), reduction="none").sum(-1)
    return F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def class_cost(ours: Tensor, theirs: Tensor, activation: str) -> Tensor:
    """(P, B, N, K) and (P, B, M, K) logits -> (P, B, N, M) the same of every pair; of a softmax without what depends on
    the teacher's query alone."""
    ours, theirs = ours.float(), theirs.float()
    with full_precision(ours):
        if activation == "sigmoid":
            return F.softplus(ours).sum(-1, keepdim=True) - ours @ theirs.sigmoid().mT
        return -ours.log_softmax(-1) @ theirs.softmax(-1).mT


@dataclass(frozen=True)
class Comparison:
    """What queries are compared by.

    Attributes:
        activation: of both classifiers. form: of boxes cxcywh, what L1 compares. weights: "CLASS", "L1", "GIOU".
    """

    activation: str
    form: Callable[[Tensor], Tensor]
    weights: Mapping[str, float]

    @torch.no_grad()
    def cost(self, ours: Predictions, theirs: Predictions, of_class: bool = True) -> Tensor:
        """(P, B, N, M) of every pair, with the class or without."""
        a, b = ours.boxes.float(), theirs.boxes.float()
        cost = self.weights["L1"] * torch.cdist(self.form(a), self.form(b), p=1)
        cost = cost - self.weights["GIOU"] * generalized_iou(to_xyxy(a)[..., :, None, :], to_xyxy(b)[..., None, :, :])
        if of_class:
            cost = cost + self.weights["CLASS"] * class_cost(ours.logits, theirs.logits, self.activation)
        return cost

    def class_losses(self, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
        """(…, K) logits of both -> weighted (…)."""
        return {"class": self.weights["CLASS"] * class_loss(ours, theirs, self.activation)}

    def box_losses(self, ours: Tensor, theirs: Tensor) -> dict[str, Tensor]:
        """(…, 4) boxes of both -> weighted (…)."""
        return {
            "l1": self.weights["L1"] * (self.form(ours) - self.form(theirs)).abs().sum(-1),
            "giou": self.weights["GIOU"] * (1 - generalized_iou(to_xyxy(ours), to_xyxy(theirs))),
        }

    def match_all(self, ours: Predictions, theirs: Predictions) -> Pairs:
        """All queries that count with all."""
        score = probabilities(theirs.logits, self.activation).amax(-1)
        return match(self.cost(ours, theirs), counted_queries(ours), counted_queries(theirs), score)


@torch.no_grad()
def match(cost: Tensor, ours: Tensor, theirs: Tensor, score: Tensor) -> Pairs:
    """One query of the student for each of the teacher's, at the lowest total cost.

    Args:
        cost: (P, B, N, M). ours: (P, B, N) bool, which may be taken. theirs: (P, B, M) bool, which are wanted; where
            they are more, those of the lowest score stay without.
        score: (P, B, M).
    """
    with timed("matching_of_pairs"):
        costs = cost.nan_to_num(nan=1e6, posinf=1e6, neginf=-1e6).cpu().numpy()
        free, wanted, scores = (part.cpu().numpy() for part in (ours, theirs, score))
        found = [np.zeros((4, 0), dtype=np.int64)]
        for stage, image in np.ndindex(*costs.shape[:2]):
            rows, columns = np.flatnonzero(free[stage, image]), np.flatnonzero(wanted[stage, image])
            if len(columns) > len(rows):
                best = np.argsort(-scores[stage, image, columns], kind="stable")
                columns = np.sort(columns[best[: len(rows)]])
            row, column = linear_sum_assignment(costs[stage, image][np.ix_(rows, columns)])
            found.append(np.stack([np.full_like(row, stage), np.full_like(row, image), rows[row], columns[column]]))
        return Pairs(*torch.from_numpy(np.concatenate(found, axis=1).astype(np.int64)).to(cost.device))


def counted_queries(predictions: Predictions) -> Tensor:
    """(P, B, Q) bool, the queries that count, and do not only fill up an image."""
    valid = predictions.valid
    shape = predictions.boxes.shape[:3]
    if valid is None:
        return torch.ones(shape, dtype=torch.bool, device=predictions.boxes.device)
    return valid[None].expand(shape)


def shares(certain: Tensor, counted: Tensor) -> Tensor:
    """(…, Q) how certain the teacher is, and which queries count -> (…, Q), 1 in all of an image."""
    certain = certain * counted
    return certain / certain.sum(-1, keepdim=True).clamp(min=1e-8)
