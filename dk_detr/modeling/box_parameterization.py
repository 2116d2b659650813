"""Box parameterizations: what the four numbers of a box head do to a reference.

A reference is a box (…, 4) cxcywh, or a point (…, 2) that a layer makes a box of; both in [0, 1] of the image.
"""

from abc import ABC, abstractmethod

from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import inverse_sigmoid


class BoxParameterization(ABC):
    """From a reference and the numbers of a head to a box. Numbers of zero give the reference back."""

    @abstractmethod
    def decode(self, start: Tensor | None, delta: Tensor) -> Tensor:
        """(…, 4) boxes float32, cxcywh in [0, 1].

        Args:
            start: (…, 4) box, (…, 2) point, or None where boxes start from nothing. delta: (…, 4) of the head.
        """


class Logits(BoxParameterization):
    """Deltas move the logits of a box; of a point those of the centre, and are the size's; without a start they are
    the logits. Source: Deformable DETR, A.4."""

    def decode(self, start: Tensor | None, delta: Tensor) -> Tensor:
        """See `BoxParameterization`."""
        if start is None:
            return delta.float().sigmoid()
        logits = inverse_sigmoid(start)
        return (delta.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


BOX_PARAMETERIZATIONS: dict[str, type[BoxParameterization]] = {"Logits": Logits}
"""By their name in MODEL.DETR.BOXES."""
