"""MaskCriterion: what a drawn mask is charged for. N masks of H × W pixels."""

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-5


def soft_dice(probabilities: Tensor, wanted: Tensor) -> Tensor:
    """(N, H, W) in [0, 1], both -> (N,) 1 minus the Dice coefficient: 0 for the same mask, 1 for masks apart. With
    squares in the denominator (V-Net), so that soft masks that are the same have 0, too."""
    p, t = probabilities.flatten(1), wanted.flatten(1)
    return 1 - 2 * (p * t).sum(1) / (p.square().sum(1) + t.square().sum(1) + EPSILON)


class MaskCriterion:
    """Dice and binary cross-entropy.

    Args:
        weights: of "dice" and "bce". Source: SOIT (AAAI 2022), as released.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.weights = dict(weights)

    def __call__(
        self, logits: Tensor, wanted: Tensor, pixels: Tensor, num_objects: float | Tensor
    ) -> dict[str, Tensor]:
        """The weighted losses `loss_mask_<term>`.

        Args:
            logits: (N, H, W). wanted: (N, H, W) in [0, 1]. Both count in padding, too, where nothing is wanted.
            pixels: (N,) that show the image: what the cross-entropy of a mask is divided by. num_objects: what the
                sums over masks are divided by.
        """
        entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").flatten(1).sum(1)
        terms = {"dice": soft_dice(logits.sigmoid(), wanted), "bce": entropy / pixels}
        return {f"loss_mask_{name}": weight * terms[name].sum() / num_objects for name, weight in self.weights.items()}
