"""Refinement: from the reference of a query to its box, and from one decoder layer to the next. D layers.

A reference is a box (…, 4) cxcywh, or a point (…, 2) that a layer makes a box of; both in [0, 1] of the image.
"""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.layers import MLP, box_head, inverse_sigmoid
from dk_detr.structures import QuerySet

SMALL = -2.0  # logit of a side: a new head starts with boxes of 12 % of the image around points, not of half of it


def boxes_at(reference: Tensor, delta: Tensor) -> Tensor:
    """Boxes (…, 4) float32: `delta` (…, 4) moves the logits of a box; of a point those of the centre, and is the size.

    Source: Deformable DETR, A.4.
    """
    start = inverse_sigmoid(reference)
    return (delta.float() + F.pad(start, (0, 4 - start.shape[-1]))).sigmoid()


class Refinement(Protocol):
    """Where the next layer looks."""

    def next_reference(self, queries: QuerySet, boxes: Tensor, reference: Tensor) -> Tensor:
        """(B, ΣQ, 4) boxes of a layer that started from `reference` (B, ΣQ, 2 or 4) -> references of the next."""

    def widths(self, first: int, num_layers: int) -> list[int]:
        """2 for points or 4 for boxes: what each of D layers starts from, if the first starts from `first`."""


class Iterative:
    """Each layer goes on from the boxes of the one before, without gradient: no layer is blamed for the next.

    Each group of queries takes the boxes that it says (`QuerySet.steer`). Source: Deformable DETR, A.4.
    """

    def next_reference(self, queries: QuerySet, boxes: Tensor, reference: Tensor) -> Tensor:
        """See `Refinement`."""
        return queries.steer(boxes.detach(), reference)

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] + [4] * (num_layers - 1)


class FromReference:
    """Every layer starts from the same references; only what the queries know of the image is refined."""

    def next_reference(self, queries: QuerySet, boxes: Tensor, reference: Tensor) -> Tensor:
        """See `Refinement`."""
        return reference

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] * num_layers


REFINEMENTS: dict[str, type[Refinement]] = {"Iterative": Iterative, "FromReference": FromReference}
"""By their name in MODEL.DETR.REFINEMENT."""


def box_heads(channels: int, number: int, widths: Sequence[int]) -> list[MLP]:
    """Box heads, each zero at the start; those that serve points only start with small boxes.

    Args:
        channels: C. number: of heads; layer l takes head l modulo `number`. widths: (D) see `Refinement.widths`.

    Source: Deformable DETR's release.
    """
    heads = [box_head(channels) for _ in range(number)]
    for index, head in enumerate(heads):
        if set(widths[index::number]) == {2}:
            nn.init.constant_(head.layers[-1].bias[2:], SMALL)  # type: ignore[index, arg-type]
    return heads
