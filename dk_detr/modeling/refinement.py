"""Refinement: what a decoder layer's boxes start from, and what the next layer looks at. D layers.

References are boxes (…, 4) cxcywh or points (…, 2), in [0, 1] of the image.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from dk_detr.layers import MLP, box_head
from dk_detr.modeling.box_parameterization import BoxParameterization, Logits
from dk_detr.structures import QuerySet
from dk_detr.structures.features import Shapes

SMALL = -2.0  # logit of a side: around points a new head makes boxes of 12 % of the image; 0 would make them of half


class Refinement(ABC):
    """Where the next layer looks, and what its boxes start from.

    Args:
        boxes: how boxes are made of references.

    Attributes:
        needs_reference: whether queries must have one.
    """

    needs_reference = True

    def __init__(self, boxes: BoxParameterization | None = None) -> None:
        self.boxes = boxes or Logits()

    def decode_boxes(self, start: Tensor | None, delta: Tensor, image_sizes: Shapes = ()) -> Tensor:
        """(B, Q, 4) boxes of a layer, see `BoxParameterization`."""
        return self.boxes.decode(start, delta, image_sizes)

    def start(self, reference: Tensor | None) -> Tensor | None:
        """What the boxes of the first layer start from, given its references (B, ΣQ, 2 or 4)."""
        return reference

    @abstractmethod
    def next_reference(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, raw_boxes: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """References of the next layer, and what its boxes start from.

        Args:
            reference: (B, ΣQ, 2 or 4) of this layer. boxes: (B, ΣQ, 4) that it predicts.
            raw_boxes: gives (B, ΣQ, 4), boxes at the references, predicted from hidden states before the decoder norm.
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

    def next_reference(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, raw_boxes: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        return reference, None

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [0] * num_layers


class FromReference(Refinement):
    """Every layer starts from the same references; only what the queries know of the image is refined."""

    def next_reference(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, raw_boxes: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        return reference, reference

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] * num_layers


class Iterative(Refinement):
    """Each layer goes on from the boxes of the one before, without gradient: the loss of a
    layer does not reach the boxes of earlier ones.

    Each group takes the boxes of the group that it follows (`QuerySet.next_references`). Source: Deformable DETR, A.4.
    """

    def next_reference(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, raw_boxes: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`."""
        assert reference is not None
        refined = queries.next_references(boxes.detach(), reference)
        return refined, refined

    def widths(self, first: int, num_layers: int) -> list[int]:
        """See `Refinement`."""
        return [first] + [4] * (num_layers - 1)


class LookForwardTwice(Iterative):
    """Boxes start from those of the layer before with their gradient, so that a layer learns from its own loss and from
    the next one's. References carry no gradient. Source: DINO (ICLR 2023), §3.5; DAB-DETR's release did so before."""

    def next_reference(
        self, queries: QuerySet, reference: Tensor | None, boxes: Tensor, raw_boxes: Callable[[], Tensor]
    ) -> tuple[Tensor | None, Tensor | None]:
        """See `Refinement`. As both sources have it, references come from features before the decoder's norm."""
        assert reference is not None
        refined = queries.next_references(raw_boxes(), reference)
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
