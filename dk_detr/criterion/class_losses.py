"""Class losses: what the matcher and the criterion make of class logits, chosen together.

D layers, B images, Q queries, K classes, M objects of the fullest image.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.criterion.negatives import All, Negatives
from dk_detr.criterion.terms import Term
from dk_detr.layers import sigmoid_focal_loss
from dk_detr.structures import Assignment, Predictions, Targets


class ClassLoss(Term):
    """The term "class"; its loss is a sum over valid queries.

    Attributes:
        activation: of the classifiers that it is for, see `Classifier`.
    """

    activation: str


@dataclass(frozen=True)
class Focal(ClassLoss):
    """Sigmoid focal loss over all queries and classes; a matched query is its object's class, others are none.

    Attributes:
        negatives: which words the queries of an image learn not to be; the word that it is matched to, a query always
            learns.

    Source: Deformable DETR (ICLR 2021).
    """

    negatives: Negatives = field(default_factory=All)
    activation = "sigmoid"

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        p = _of_labels(predictions.logits.float().sigmoid(), targets)
        positive = 0.25 * (1 - p) ** 2 * -torch.log(p + 1e-8)
        negative = 0.75 * p**2 * -torch.log(1 - p + 1e-8)
        return positive - negative

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`."""
        logits = predictions.logits.float()
        wanted = torch.zeros_like(logits)
        labels = targets.padded[0][assignment.image, assignment.target]
        wanted[assignment.layer, assignment.image, assignment.query, labels] = 1
        loss = sigmoid_focal_loss(logits, wanted)
        negatives = self.negatives(targets, logits.shape[-1])
        if negatives is not None:
            loss = loss * (negatives[None, :, None] | wanted.bool())
        if predictions.negative_weight is not None:
            loss = torch.where(wanted.bool(), loss, loss * predictions.negative_weight)
        if predictions.valid is not None:
            loss = loss * predictions.valid[None, :, :, None]
        return loss.flatten(1).sum(1)


@dataclass(frozen=True)
class CrossEntropy(ClassLoss):
    """Cross-entropy of a softmax over the classes and "no object", the last column and the target of unmatched queries.

    Attributes:
        no_object_weight: of unmatched queries, which are the majority. The mean is weighted by it.

    Source: DETR (ECCV 2020). There each worker divides by its own objects, here by the mean of all workers.
    """

    no_object_weight: float = 0.1
    activation = "softmax"

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        return -_of_labels(predictions.logits.float().softmax(-1), targets)

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`."""
        logits = predictions.logits.float()
        nothing = logits.shape[-1] - 1
        wanted = torch.full(logits.shape[:-1], nothing, device=logits.device)
        labels = targets.padded[0][assignment.image, assignment.target]
        wanted[assignment.layer, assignment.image, assignment.query] = labels
        loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="none").view_as(wanted)
        loss = torch.where(wanted == nothing, self.no_object_weight * loss, loss)
        if predictions.valid is not None:
            loss = loss * predictions.valid
        return loss.flatten(1).sum(1)

    def divisor(self, predictions: Predictions, num_objects: float | Tensor) -> float | Tensor:
        """See `Term`: the sum of the weights of a layer."""
        valid = predictions.valid
        num_queries: int | Tensor = predictions.logits[0, ..., 0].numel() if valid is None else valid.sum()
        return num_objects + self.no_object_weight * (num_queries - num_objects)


@dataclass(frozen=True)
class BoxesOnly(ClassLoss):
    """Labels are neither matched by nor learned."""

    activation = "none"

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        return predictions.logits.new_zeros(*predictions.logits.shape[:3], max(targets.counts, default=0))

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`: 0, and not nothing, because DDP waits for the gradient of every projection."""
        return predictions.logits.float().flatten(1).sum(1) * 0


def _of_labels(values: Tensor, targets: Targets) -> Tensor:
    """(D, B, Q, K) -> (D, B, Q, M), those of the objects' classes."""
    depth, _, queries, _ = values.shape
    return values.gather(-1, targets.padded[0][None, :, None].expand(depth, -1, queries, -1))


CLASS_LOSSES: dict[str, type[ClassLoss]] = {"Focal": Focal, "CrossEntropy": CrossEntropy, "BoxesOnly": BoxesOnly}
"""By their name in MODEL.DETR.LOSS.CLASS."""
