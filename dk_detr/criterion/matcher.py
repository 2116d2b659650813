"""Matching: which prediction answers for which object, at the lowest total cost.

D layers, B images, Q queries, K classes, M objects of the fullest image.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dk_detr.criterion.class_losses import ClassLoss, Focal
from dk_detr.layers import generalized_iou, to_xyxy
from dk_detr.structures import Assignment, Predictions, Targets

_NEVER = 1e6  # costs are of order 10


class HungarianMatcher:
    """One prediction for each object, each at most once, for each layer and image by itself.

    Args:
        class_cost, l1_cost, giou_cost: weights of the cost of classes, the L1 distance of cxcywh in [0, 1], and the
            negative GIoU.
        class_loss: says what classes cost; None for `Focal`.

    Source: DETR (ECCV 2020).
    """

    def __init__(
        self,
        class_cost: float = 2.0,
        l1_cost: float = 5.0,
        giou_cost: float = 2.0,
        class_loss: ClassLoss | None = None,
    ) -> None:
        self.class_cost, self.l1_cost, self.giou_cost = class_cost, l1_cost, giou_cost
        self.class_loss = class_loss or Focal()

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Assignment:
        """Match. An image without objects matches nothing; objects beyond Q stay unmatched."""
        if not any(targets.counts):
            return _assignment([], predictions.boxes.device)
        # One matrix for all layers and images, one transfer to the host.
        cost = self.cost(predictions, targets).cpu().numpy()
        pairs: list[tuple[np.ndarray, ...]] = []
        for layer, of_layer in enumerate(cost):
            for image, count in enumerate(targets.counts):
                query, target = linear_sum_assignment(of_layer[image, :, :count])
                pairs.append((np.full_like(query, layer), np.full_like(query, image), query, target))
        return _assignment(pairs, predictions.boxes.device)

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """(D, B, Q, M) what it would cost to match; columns beyond an image's objects mean nothing."""
        labels, boxes = targets.padded()
        by_class = self.class_loss.cost(predictions.logits, labels)
        l1 = torch.cdist(predictions.boxes.float(), boxes.float().expand(len(by_class), -1, -1, -1), p=1)
        overlap = generalized_iou(to_xyxy(predictions.boxes.float())[..., None, :], to_xyxy(boxes.float())[:, None])
        cost = self.class_cost * by_class + self.l1_cost * l1 - self.giou_cost * overlap
        if predictions.valid is not None:
            cost = cost.masked_fill(~predictions.valid[None, :, :, None], _NEVER)
        # A broken prediction must reach the loss, where it is reported with its images, not stop the assignment.
        return cost.nan_to_num(nan=_NEVER, posinf=_NEVER, neginf=-_NEVER)


def _assignment(pairs: list[tuple[np.ndarray, ...]], device: torch.device) -> Assignment:
    columns = [np.concatenate(column) for column in zip(*pairs)] if pairs else [np.zeros(0, dtype=np.int64)] * 4
    return Assignment(*torch.from_numpy(np.stack(columns).astype(np.int64)).to(device))
