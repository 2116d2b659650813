"""Terms: what predictions and objects are compared by. Each has a cost to match by and a loss to learn from.

D layers, B images, Q queries, M objects of the fullest image, N matched pairs.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import generalized_iou, iou, to_xyxy
from dk_detr.structures import Assignment, Predictions, Targets

LEAST = 0.3  # IoU


class Term(ABC):
    """One comparison of predictions with objects."""

    @abstractmethod
    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """(D, B, Q, M), lower where the query fits the object; what stands beyond an image's objects means nothing."""

    @abstractmethod
    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """(D,) the sum over queries, with a gradient also where nothing is matched: DDP waits for it."""

    def divisor(self, predictions: Predictions, num_objects: float | Tensor) -> float | Tensor:
        """What the loss is divided by. num_objects: of the batch, see `mean_num_objects`."""
        return num_objects


class BoxL1(Term):
    """L1 distance of boxes, cxcywh in [0, 1]."""

    @staticmethod
    def form(boxes: Tensor) -> Tensor:
        """(…, 4) cxcywh -> (…, 4), the numbers that are compared."""
        return boxes

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        boxes, objects = self.form(predictions.boxes.float()), self.form(targets.padded[1].float())
        return torch.cdist(boxes, objects.expand(len(boxes), -1, -1, -1), p=1)

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`."""
        ours, theirs = _matched_boxes(predictions, targets, assignment)
        return _sum_by_layer((self.form(ours) - self.form(theirs)).abs().sum(-1), predictions, assignment)


class BoxCornersL1(BoxL1):
    """The same of xyxy. Source: AdaMixer (CVPR 2022)."""

    @staticmethod
    def form(boxes: Tensor) -> Tensor:
        """(…, 4) cxcywh -> (…, 4) xyxy."""
        return to_xyxy(boxes)


class BoxGIoU(Term):
    """Generalised IoU of boxes: its negative costs, 1 minus it is lost."""

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        ours = to_xyxy(predictions.boxes.float())[..., None, :]
        return -generalized_iou(ours, to_xyxy(targets.padded[1].float())[:, None])

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`."""
        ours, theirs = _matched_boxes(predictions, targets, assignment)
        return _sum_by_layer(1 - generalized_iou(to_xyxy(ours), to_xyxy(theirs)), predictions, assignment)


class Quality(Term):
    """Binary cross-entropy of the predicted quality of a box and its IoU with the object that it overlaps most, of all
    queries with an IoU of `LEAST`, matched or not; there are no negatives. It costs nothing: matching is not by it.

    Source: OLN, Kim et al. (RA-L 2022); there an L1 loss of centreness or IoU.
    """

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """See `Term`."""
        return predictions.boxes.new_zeros(*predictions.boxes.shape[:3], max(targets.counts, default=0))

    def loss(self, predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
        """See `Term`."""
        assert predictions.quality is not None  # build.py weighs this term where there is one
        if not any(targets.counts):
            return predictions.quality.flatten(1).sum(1) * 0
        boxes, objects = predictions.boxes.detach().float(), targets.padded[1].float()
        overlap = iou(to_xyxy(boxes)[..., None, :], to_xyxy(objects)[:, None]).amax(-1)
        learns = overlap >= LEAST
        if predictions.valid is not None:
            learns = learns & predictions.valid
        losses = F.binary_cross_entropy_with_logits(predictions.quality, overlap, reduction="none")
        return losses.masked_fill(~learns, 0.0).flatten(1).sum(1)


BOX_TERMS: dict[str, type[Term]] = {"l1": BoxL1, "giou": BoxGIoU, "quality": Quality}
"""By their names, in capitals, in MODEL.DETR.LOSS.WEIGHTS and MODEL.DETR.MATCHER, beside the term "class", a
`ClassLoss`. Only "quality" has no cost, and its weight is MODEL.DETR.QUALITY.WEIGHT."""


L1_FORMS: dict[str, type[BoxL1]] = {"cxcywh": BoxL1, "xyxy": BoxCornersL1}
"""The term "l1" by its name in MODEL.DETR.LOSS.L1."""


def _matched_boxes(predictions: Predictions, targets: Targets, assignment: Assignment) -> tuple[Tensor, Tensor]:
    ours = predictions.boxes[assignment.layer, assignment.image, assignment.query].float()
    return ours, targets.padded[1][assignment.image, assignment.target].float()


def _sum_by_layer(values: Tensor, predictions: Predictions, assignment: Assignment) -> Tensor:
    # Adding the empty sum keeps the boxes in the graph when nothing is matched: DDP waits for every gradient.
    start = predictions.boxes.float().flatten(1).sum(1) * 0
    return start.index_add(0, assignment.layer, values)
