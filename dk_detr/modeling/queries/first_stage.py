"""FirstStage: what comes out of the part that makes the detection queries. B images, S tokens, Q queries."""

from dataclasses import dataclass

from torch import Tensor

from dk_detr.structures import Predictions, QueryGroup


@dataclass(frozen=True)
class FirstStage:
    """What the first stage gives.

    Attributes:
        group: the detection queries; proposals in the order of their objectness.
        objectness: (B, Q) logits of the chosen tokens, sorted, without gradient; -inf in padding. None where the
            queries are no proposals.
        predictions: all tokens, K = 1, to be supervised; None where the queries are no proposals.
        real: (B, Q) bool, False for queries that only fill up an image with fewer places than Q; None where all see
            something.
    """

    group: QueryGroup
    objectness: Tensor | None = None
    predictions: Predictions | None = None
    real: Tensor | None = None
