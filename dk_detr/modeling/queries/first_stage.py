"""FirstStage: what comes out of the part that makes the detection queries. B images, S tokens, Q queries, K words."""

from dataclasses import dataclass

from torch import Tensor

from dk_detr.structures import Predictions, QueryGroup, Targets


@dataclass(frozen=True)
class FirstStage:
    """What the first stage gives.

    Attributes:
        group: the detection queries; proposals in the order of their objectness.
        objectness: (B, Q) logits of the chosen tokens, sorted, without gradient; -inf in padding. None where the
            queries are no proposals.
        predictions: to be supervised: all tokens, K = 1, or the chosen ones, K words of training; None where the
            queries are no proposals.
        real: (B, Q) bool, False for queries that only fill up an image with fewer places than Q; None where all see
            something.
        names_words: whether `predictions` tell words apart, or only objects from nothing.
    """

    group: QueryGroup
    objectness: Tensor | None = None
    predictions: Predictions | None = None
    real: Tensor | None = None
    names_words: bool = False

    def wanted(self, targets: Targets) -> Targets:
        """What `predictions` are compared with: objects, or objects of each word."""
        return targets if self.names_words else targets.class_agnostic()
