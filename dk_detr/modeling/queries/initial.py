"""InitialQueries: what a decoder starts from. B images, S tokens, Q queries, K words."""

from dataclasses import dataclass

from torch import Tensor

from dk_detr.structures import Predictions, QueryGroup, Targets


@dataclass(frozen=True)
class InitialQueries:
    """The detection queries, and, where they are proposals of a first stage, what that stage says.

    Attributes:
        group: the detection queries; proposals in the order of their objectness.
        objectness: (B, Q) logits of the chosen tokens, sorted, without gradient; -inf in padding. None where the
            queries are no proposals.
        predictions: to be supervised: all tokens, K = 1, or the chosen ones, K words of training; None where the
            queries are no proposals.
        class_aware: whether `predictions` tell words apart, or only objects from nothing.
    """

    group: QueryGroup
    objectness: Tensor | None = None
    predictions: Predictions | None = None
    class_aware: bool = False

    def proposal_targets(self, targets: Targets) -> Targets:
        """What `predictions` are compared with: objects of each word, or objects."""
        return targets if self.class_aware else targets.class_agnostic()
