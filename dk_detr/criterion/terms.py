"""Loss terms of boxes, all with one signature: predictions, targets, their assignment -> a sum for each layer.

D layers, N matched pairs.
"""

from torch import Tensor

from dk_detr.layers import generalized_iou, to_xyxy
from dk_detr.structures import Assignment, Predictions, Targets


def l1_loss(predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
    """(D,) L1 distance of matched boxes, cxcywh in [0, 1]."""
    ours, theirs = _matched_boxes(predictions, targets, assignment)
    return _sum_by_layer((ours - theirs).abs().sum(-1), predictions, assignment)


def giou_loss(predictions: Predictions, targets: Targets, assignment: Assignment) -> Tensor:
    """(D,) 1 - GIoU of matched boxes."""
    ours, theirs = _matched_boxes(predictions, targets, assignment)
    return _sum_by_layer(1 - generalized_iou(to_xyxy(ours), to_xyxy(theirs)), predictions, assignment)


def _matched_boxes(predictions: Predictions, targets: Targets, assignment: Assignment) -> tuple[Tensor, Tensor]:
    ours = predictions.boxes[assignment.layer, assignment.image, assignment.query].float()
    return ours, targets.padded()[1][assignment.image, assignment.target].float()


def _sum_by_layer(values: Tensor, predictions: Predictions, assignment: Assignment) -> Tensor:
    # Adding the empty sum keeps the boxes in the graph when nothing is matched: DDP waits for every gradient.
    start = predictions.boxes.float().flatten(1).sum(1) * 0
    return start.index_add(0, assignment.layer, values)
