"""Trace and Predictions: what the decoder did, and what its heads make of it.

D layers, B images, Q queries, C channels, K classes.
"""

from dataclasses import dataclass

from torch import Tensor

from dk_detr.structures.queries import QuerySet


@dataclass(frozen=True)
class Trace:
    """The way of the queries through the decoder.

    Attributes:
        hidden_states: (D, B, ΣQ, C) query features after each layer.
        boxes: (D, B, ΣQ, 4) boxes predicted by each layer, cxcywh in [0, 1] of the unpadded image.
        queries: the set that went in.
    """

    hidden_states: Tensor
    boxes: Tensor
    queries: QuerySet

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """(hidden states, boxes) of one group."""
        span = self.queries.span(name)
        return self.hidden_states[:, :, span], self.boxes[:, :, span]


@dataclass(frozen=True)
class Predictions:
    """What is compared with the ground truth.

    Attributes:
        logits: (D, B, Q, K) class logits for a sigmoid; or K + 1 for a softmax, the last for no object.
        boxes: (D, B, Q, 4) cxcywh in [0, 1] of the unpadded image.
        valid: (B, Q) bool, False where a prediction does not count (padding); None where all count.
        quality: (D, B, Q) logits of how well the boxes fit; None where nobody says.
        negative_weight: (B, Q, K) in [0, 1], how much a query is to learn that it is not a word; None for 1.
    """

    logits: Tensor
    boxes: Tensor
    valid: Tensor | None = None
    quality: Tensor | None = None
    negative_weight: Tensor | None = None
