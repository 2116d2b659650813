"""Positions: what a query is told about its place, in every decoder layer. B images, Q queries, C channels.

Sine codes here are of (y, x) or (y, x, w, h), as the sources have them, with C/2 numbers each.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from dk_detr.layers import MLP, sine_code


@dataclass(frozen=True)
class QueryPosition:
    """Codes of the places of queries.

    Attributes:
        self_attention: (B, Q, C) for queries among themselves.
        cross_attention: (B, Q, C) for what a query looks for in the memory.
    """

    self_attention: Tensor
    cross_attention: Tensor


class Positions(nn.Module, ABC):
    """Makes the positions of a layer.

    Attributes:
        given: whether the queries must bring a position, see `QueryGroup`.
        width: of the references that it reads: 2 points (boxes will do), 4 boxes, 0 none.
        least_layers: that a decoder needs for all of this to be used.
        added: whether attention adds it to the content, or compares it apart (see `AttentionKind.adds_position`).
    """

    given: bool
    width: int
    least_layers = 1
    added = True

    @abstractmethod
    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """Of a layer.

        Args:
            given: (B, Q, C) positions that the queries brought. content: (B, Q, C) what goes into the layer.
            reference: (B, Q, 2 or 4) where it starts from. layer: its number; in the first one content
                says nothing of the image, and scales nothing.
        """


class Given(Positions):
    """What the queries brought, the same in all layers. Source: DETR, Deformable DETR."""

    given, width = True, 0

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """See `Positions`."""
        position = require_part(given, "a position")
        return QueryPosition(position, position)


class ConditionalSine(Positions):
    """Cross-attention looks for the code of the reference point, scaled by the content.

    Source: Conditional DETR (ICCV 2021).
    """

    given, width, added, least_layers = True, 2, False, 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = MLP(channels, channels, channels, 2, "xavier")

    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """See `Positions`."""
        code = code_of(require_part(reference, "a reference")[..., :2], content)
        return QueryPosition(require_part(given, "a position"), code if layer == 0 else code * self.scale(content))


class SineAnchors(Positions):
    """Learned from the code of the reference box. Source: DINO (ICLR 2023)."""

    given, width = False, 4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.of_box = MLP(2 * channels, channels, channels, 2, "xavier")

    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """See `Positions`."""
        position = self.of_box(code_of(require_part(reference, "a reference"), content))
        return QueryPosition(position, position)


class ScaledSineAnchors(SineAnchors):
    """The same, scaled by the content. Source: DAB-Deformable-DETR, of DAB-DETR's release."""

    least_layers = 2

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = MLP(channels, channels, channels, 2, "xavier")

    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """See `Positions`."""
        position = super().forward(given, content, reference, layer).self_attention
        position = position if layer == 0 else position * self.scale(content)
        return QueryPosition(position, position)


class ModulatedSineAnchors(SineAnchors):
    """Cross-attention looks for the code of the centre, scaled by the content. The half that codes y is multiplied by
    the ratio of the height that the content expects to that of the reference box, the half that codes x likewise by
    the ratio of widths: so attention takes the shape of the box. Source: DAB-DETR (ICLR 2022), §4.4."""

    added, least_layers = False, 2

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = MLP(channels, channels, channels, 2, "xavier")
        self.size = MLP(channels, channels, 2, 2, "xavier")

    def forward(self, given: Tensor | None, content: Tensor, reference: Tensor | None, layer: int) -> QueryPosition:
        """See `Positions`."""
        position = super().forward(given, content, reference, layer).self_attention
        center, sides = require_part(reference, "a reference").split(2, dim=-1)
        code = code_of(center, content)
        scaled = code if layer == 0 else code * self.scale(content)
        ratio = (self.size(content).float().sigmoid() / sides).to(scaled.dtype)  # of width, of height
        modulated = scaled.unflatten(-1, (2, -1)) * ratio.flip(-1)[..., None]
        return QueryPosition(position, modulated.flatten(-2))


def code_of(reference: Tensor, content: Tensor) -> Tensor:
    """(B, Q, 2 or 4) points or boxes -> (B, Q, C or 2C) sine codes, y before x, in the precision of the content."""
    order = [1, 0, 2, 3][: reference.shape[-1]]
    return sine_code(reference[..., order], content.shape[-1] // 2).flatten(-2).to(content.dtype)


def require_part(part: Tensor | None, name: str) -> Tensor:
    """What queries need here. Raises ValueError where they have none."""
    if part is None:
        raise ValueError(f"This decoder needs queries with {name}.")
    return part


POSITIONS: dict[str, type[Positions]] = {
    "Given": Given,
    "ConditionalSine": ConditionalSine,
    "SineAnchors": SineAnchors,
    "ScaledSineAnchors": ScaledSineAnchors,
    "ModulatedSineAnchors": ModulatedSineAnchors,
}
"""By their name in MODEL.DETR.POSITION."""
