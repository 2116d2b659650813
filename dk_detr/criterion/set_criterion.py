"""SetCriterion: the detection loss of a set of predictions, every layer supervised."""

from collections.abc import Callable

import torch
from torch import Tensor

from dk_detr.criterion.matcher import HungarianMatcher
from dk_detr.criterion.normaliser import number_of_objects
from dk_detr.criterion.terms import giou_loss, l1_loss
from dk_detr.structures import Assignment, Predictions, Targets
from dk_detr.utils import record, timed

Term = Callable[[Predictions, Targets, Assignment], Tensor]
BOX_TERMS: dict[str, Term] = {"l1": l1_loss, "giou": giou_loss}


class SetCriterion:
    """Match, then weigh and sum the terms over all layers.

    Args:
        matcher: assigns objects to predictions; what it takes for a likely class is learned: the term "class".
        weights: weight of each of the terms "class", "l1" and "giou".
    """

    def __init__(self, matcher: HungarianMatcher, weights: dict[str, float]) -> None:
        self.matcher, self.weights = matcher, weights
        self.terms: dict[str, Term] = {"class": matcher.class_loss, **BOX_TERMS}
        unknown = set(weights) - set(self.terms)
        if unknown:
            raise ValueError(f"Unknown loss terms {sorted(unknown)}; choose from {sorted(self.terms)}.")

    def __call__(
        self, predictions: Predictions, targets: Targets, stage: str = ""
    ) -> tuple[dict[str, Tensor], Assignment]:
        """Returns the weighted losses `loss_<stage><term>`, each summed over layers and divided by the number of
        objects in the whole batch of all workers (see `ClassLoss.divisor`); and the assignment they rest on."""
        with timed(f"matching_{stage}".rstrip("_")):
            assignment = self.matcher(predictions, targets)
        return self.losses(predictions, targets, assignment, stage), assignment

    def losses(
        self, predictions: Predictions, targets: Targets, assignment: Assignment, stage: str = "", answers: int = 1
    ) -> dict[str, Tensor]:
        """The same for an assignment that is known; `answers`: how many predictions answer for each object."""
        count = number_of_objects(targets, predictions.logits.device) * answers
        divisors = {"class": self.matcher.class_loss.divisor(predictions, count)}
        by_layer = {
            name: self.terms[name](predictions, targets, assignment) * weight / divisors.get(name, count)
            for name, weight in self.weights.items()
        }
        if by_layer and len(predictions.logits) > 1:
            last = torch.stack([losses[-1].detach() for losses in by_layer.values()]).tolist()  # one wait for all
            for name, value in zip(by_layer, last):
                record(f"last_layer/{stage}{name}", value)
        return {f"loss_{stage}{name}": losses.sum() for name, losses in by_layer.items()}
