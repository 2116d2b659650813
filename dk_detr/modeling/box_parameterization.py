"""Box parameterizations: what the four numbers of a box head do to a reference. B images, Q queries.

A reference is a box (B, Q, 4) cxcywh, or a point (B, Q, 2) that a layer makes a box of; both in [0, 1] of the image.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import inverse_sigmoid
from dk_detr.structures.features import Shapes


class BoxParameterization(ABC):
    """From a reference and the numbers of a head to a box. Numbers of zero give the box back."""

    @abstractmethod
    def decode(self, start: Tensor | None, delta: Tensor, image_sizes: Shapes = ()) -> Tensor:
        """(B, Q, 4) boxes float32, cxcywh in [0, 1].

        Args:
            start: (B, Q, 4) boxes, (B, Q, 2) points, or None where boxes start from nothing. delta: (B, Q, 4) of the
                head. image_sizes: (h, w) of the B images in pixels.
        """


class Logits(BoxParameterization):
    """box = sigmoid(logit(start) + delta). A point has no size, so that its size is sigmoid(delta); without a start all
    of the box is. Source: Deformable DETR, A.4."""

    def decode(self, start: Tensor | None, delta: Tensor, image_sizes: Shapes = ()) -> Tensor:
        """See `BoxParameterization`."""
        if start is None:
            return delta.float().sigmoid()
        logits = inverse_sigmoid(start)
        return (delta.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


class ScaleRatio(BoxParameterization):
    """delta = (x, y, z, r): the centre moves by x and y times the geometric mean of the sides in pixels, the logarithm
    to base 2 of that mean grows by z, and that of height / width by r. Boxes are not cut at the image's border.

    Raises: ValueError for queries that do not start from boxes.

    Source: AdaMixer (CVPR 2022), in the form of its release.
    """

    def decode(self, start: Tensor | None, delta: Tensor, image_sizes: Shapes = ()) -> Tensor:
        """See `BoxParameterization`."""
        if start is None or start.shape[-1] != 4:
            raise ValueError('MODEL.DETR.BOXES "ScaleRatio" needs queries that start from boxes.')
        sizes = [(w, h) for h, w in image_sizes]  # in exports `new_tensor` would take those of the example for good
        pixels = torch.tensor(sizes, dtype=start.dtype, device=start.device)[:, None]
        center, sides = start.float().split(2, dim=-1)
        x_y, z, r = delta.float().split([2, 1, 1], dim=-1)
        mean_side = (sides * pixels).prod(-1, keepdim=True).sqrt()
        grown = torch.cat([z - r / 2, z + r / 2], dim=-1).exp2()
        return torch.cat([center + x_y * mean_side / pixels, sides * grown], dim=-1)


BOX_PARAMETERIZATIONS: dict[str, type[BoxParameterization]] = {"Logits": Logits, "ScaleRatio": ScaleRatio}
"""By their name in MODEL.DETR.BOXES."""
