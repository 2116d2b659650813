"""Refinement: from the reference of a query to its box, and from one decoder layer to the next. D layers.

A reference is a box (…, 4) cxcywh, or a point (…, 2) that a layer makes a box of; both in [0, 1] of the image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.layers import MLP, box_head, inverse_sigmoid
from dk_detr.structures import QuerySet

SMALL = -2.0  # logit of a side: a new head starts with boxes of 12 % of the image around points, not of half of it


def boxes_at(start: Tensor | None, delta: Tensor) -> Tensor:
    """Boxes (…, 4) float32: `delta` (…, 4) moves the logits of a box; of a point those of the centre, and is the size;
    without a start it is the logits.

    Source: Deformable DETR, A.4.
    """
    if start is None:
        return delta.float().sigmoid()
    logits = inverse_sigmoid(start)
    return (delta.float() + F.pad(logits, (0, 4 - logits.shape[-1]))).sigmoid()


class Refinement(ABC):
    """Where the next layer looks, and what its boxes start from.

    Attributes:
        needs_reference: whether queries must have one.
    """

    needs_reference = True

    def start(self, reference: Tensor | None) -> Tensor | None:
        """What the boxes of the first layer start from, given its references (B, ΣQ, 2 or 4)."""
        return reference

    @abstractmethod
    def go_on(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, delta: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """References of the next layer, and what its boxes start from.

        Args:
            reference: (B, ΣQ, 2 or 4) of this layer. boxes: (B, ΣQ, 4) that it says. delta: gives (B, ΣQ, 4), the
                box head's answer to features that are not normalised yet.
        """

    @abstractmethod
    def widths(self, first: int, num_layers: int) -> list[int]:
        """What each of D layers' boxes start from, if the first has references of width `first`: 2 for points, 4 for
        boxes, 0 for nothing."""


class Direct(Refinement):
    """Boxes are said outright; references, if there are any, only guide attention. Source: DETR (ECCV 2020)."""

    needs_reference = False

    def start(self, reference: Tensor | None) -> Tensor | None:
        """See `Refinement`."""
        return None

    def go_on(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, delta: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        return reference, None

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [0] * num_layers


class FromReference(Refinement):
    """Every layer starts from the same references; only what the queries know of the image is refined."""

    def go_on(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, delta: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        return reference, reference

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] * num_layers


class Iterative(Refinement):
    """Each layer goes on from the boxes of the one before, without gradient: no layer is blamed for the next.

    Each group of queries takes the boxes that it says (`QuerySet.steer`). Source: Deformable DETR, A.4.
    """

    def go_on(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, delta: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        assert reference is not None
        refined = queries.steer(boxes.detach(), reference)
        return refined, refined

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] + [4] * (num_layers - 1)


class LookForwardTwice(Iterative):
    """Boxes start from those of the layer before with their gradient, so that it learns from two layers' losses; what
    it looks at does not. Source: DINO (ICLR 2023), §3.5; DAB-DETR's release did so before."""

    def go_on(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, delta: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`. Both sources go on from features before the norm."""
        assert reference is not None
        refined = queries.steer(boxes_at(reference, delta()), reference)
        return refined.detach(), refined


REFINEMENTS: dict[str, type[Refinement]] = {
    "Direct": Direct,
    "FromReference": FromReference,
    "Iterative": Iterative,
    "LookForwardTwice": LookForwardTwice,
}
"""By their name in MODEL.DETR.REFINEMENT."""


def box_heads(channels: int, number: int, widths: Sequence[int]) -> list[MLP]:
    """Box heads: zero at the start, so that first boxes are the references; those that serve points only start with
    small boxes, those that start from nothing as any layers do.

    Args:
        channels: C. number: of heads; layer l takes head l modulo `number`. widths: (D) see `Refinement.widths`.

    Source: Deformable DETR's release; DETR's.
    """
    heads = []
    for index in range(number):
        served = set(widths[index::number])
        heads.append(MLP(channels, channels, 4, 3) if served == {0} else box_head(channels))
        if served == {2}:
            nn.init.constant_(heads[-1].layers[-1].bias[2:], SMALL)  # type: ignore[index, arg-type]
    return heads
