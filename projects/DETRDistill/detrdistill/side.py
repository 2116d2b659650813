"""Side: what terms need to know of a detector to pair it with another."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dk_detr.modeling import CosineText


@dataclass(frozen=True)
class Side:
    """The student, or the teacher.

    Attributes:
        who: for errors. channels: of its queries and of all levels. strides: of its levels, in pixels; None where the
            backbone does not tell. depth: decoder layers. reference_width: its queries start from points (2), boxes
            (4), or neither (0). classifier: the name of its kind. activation: what makes probabilities of its logits.
            compares_text: whether it tells words apart by their text embeddings.
    """

    who: str
    channels: int
    strides: tuple[int | None, ...]
    depth: int
    reference_width: int
    classifier: str
    activation: str
    compares_text: bool

    @staticmethod
    def of(who: str, channels: int, network: Mapping[str, Any]) -> "Side":
        """`network`: the parts of the detector, by the names of `DETR`'s arguments."""
        classifier = network["classifier"]
        return Side(
            who,
            channels,
            network["neck"].strides,
            len(network["decoder"].layers),
            network["queries"].reference_width,
            type(classifier).__name__,
            classifier.activation,
            isinstance(classifier, CosineText),
        )
