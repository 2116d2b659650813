"""What regions are charged for their words. N regions, K words."""

import torch
from torch import Tensor
from torch.nn import functional as F


def word_loss(logits: Tensor, labels: Tensor, background_weight: float = 1.0, focal_exponent: float = 0.0) -> Tensor:
    """Cross-entropy over words and background.

    Args:
        logits: (N, K + 1), the last for background. labels: (N,), K for background.
        background_weight: of regions that show nothing. focal_exponent: of 1 less the probability of the right label,
            which multiplies the loss of a region; 0 for none.

    Returns: without the exponent the sum over the sum of weights (LVIS); with it a mean over regions (COCO). 0 of none.

    Source: RegionCLIP's release; the two forms are normalised in these two ways there.
    """
    if not len(labels):
        return logits.sum() * 0
    losses = F.cross_entropy(logits.float(), labels, reduction="none")
    weights = torch.where(labels == logits.shape[1] - 1, background_weight, 1.0)
    if not focal_exponent:
        return (losses * weights).sum() / weights.sum().clamp(min=1e-12)
    return (losses * weights * (1 - torch.exp(-losses)).pow(focal_exponent)).mean()
