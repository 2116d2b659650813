"""Sigmoid focal loss, the plain way (RetinaNet, Lin et al. 2017)."""

from torch import Tensor
from torch.nn import functional as F


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Elementwise focal loss of logits against targets in {0, 1} of the same shape; nothing is reduced."""
    loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = logits.sigmoid()
    miss = p + targets - 2 * p * targets  # 1 - p where the target is 1, p where it is 0
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * miss**gamma * loss
