"""Where detection queries come from: the contract, and what it gives. B images, S tokens, Q queries, K words."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dk_detr.structures import Memory, Predictions, QueryGroup, Targets


@dataclass(frozen=True)
class InitialQueries:
    """The detection queries, and, where they are proposals of a first stage, what that stage says.

    Attributes:
        group: the detection queries; proposals in the order of their objectness.
        objectness: (B, Q) logits of the chosen tokens, sorted, without gradient; -inf in padding. None where the
            queries are no proposals.
        predictions: what the first stage learns from: of all tokens where it is class-agnostic (K = 1), of the chosen
            ones where it is class-aware (K words of training); None where the queries are no proposals.
        class_aware: whether `predictions` tell words apart, or only objects from nothing.
    """

    group: QueryGroup
    objectness: Tensor | None = None
    predictions: Predictions | None = None
    class_aware: bool = False

    def proposal_targets(self, targets: Targets) -> Targets:
        """What `predictions` are compared with: objects of each word, or objects."""
        return targets if self.class_aware else targets.class_agnostic()


class Queries(nn.Module, ABC):
    """Makes the detection queries; built from a config and the number of words of training.

    Attributes:
        reference_width: of the references that they start from: 4 boxes, 2 points, 0 none.
        proposes: whether they are proposals of a first stage.
        starts_from_boxes: whether other queries, at other boxes, can be given positional codes by their rule.
        positions: whether they bring positional codes, "always", "never", or "either", as the decoder wants.
        contents: whether MODEL.DETR.CONTENT says what they start as; else they have contents of their own.
    """

    reference_width: int
    proposes = False
    starts_from_boxes = True
    positions = "always"
    contents = True

    @abstractmethod
    def forward(self, memory: Memory) -> InitialQueries:
        """Of each image."""

    @abstractmethod
    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(B, Q, C) the positional code of queries that start from (B, Q, 4) boxes cxcywh in [0, 1]; None where the
        decoder derives it. Raises ValueError where queries do not start from boxes."""

    def content_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(B, Q, C) the content of queries that start from (B, Q, 4) boxes, where the box says it; else None."""
        return None

    def points_of(self, position: Tensor) -> Tensor | None:
        """(…, C) positional codes -> (…, 2) the reference points (x, y) in [0, 1] that are read off them; None where
        references are boxes, or there are none."""
        return None
