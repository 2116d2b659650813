"""SetCriterion: the detection loss of a set of predictions, every layer supervised."""

from collections.abc import Mapping

from torch import Tensor

from dk_detr.criterion.matcher import HungarianMatcher, require_terms
from dk_detr.structures import Assignment, Predictions, Targets
from dk_detr.utils import record_later, timed


class SetCriterion:
    """Match, then weigh and sum the terms over all layers.

    Args:
        matcher: assigns objects to predictions, and has the terms. weights: of the terms that are learned, by name.
    """

    def __init__(self, matcher: HungarianMatcher, weights: Mapping[str, float]) -> None:
        self.matcher, self.weights, self.terms = matcher, dict(weights), matcher.terms
        require_terms(self.weights, self.terms)

    def of_boxes(self) -> "SetCriterion":
        """The same without the term "class"."""
        return SetCriterion(self.matcher, {name: weight for name, weight in self.weights.items() if name != "class"})

    def __call__(
        self, predictions: Predictions, targets: Targets, num_objects: float | Tensor, stage: str = ""
    ) -> tuple[dict[str, Tensor], Assignment]:
        """Returns the losses, see `losses`, and the assignment that they rest on."""
        assignment = self.match(predictions, targets, stage)
        return self.losses(predictions, targets, assignment, num_objects, stage), assignment

    def match(self, predictions: Predictions, targets: Targets, stage: str = "") -> Assignment:
        """Which prediction answers for which object."""
        with timed(f"matching_{stage}".rstrip("_")):
            return self.matcher(predictions, targets)

    def losses(
        self,
        predictions: Predictions,
        targets: Targets,
        assignment: Assignment,
        num_objects: float | Tensor,
        stage: str = "",
    ) -> dict[str, Tensor]:
        """The weighted losses `loss_<stage><term>` of an assignment that is known.

        Args:
            num_objects: of the batch, see `mean_num_objects`; times the predictions that answer for each object.

        Returns: each summed over layers, and divided by `num_objects` (see `Term.divisor`).
        """
        by_layer = {}
        for name, weight in self.weights.items():
            term = self.terms[name]
            loss = term.loss(predictions, targets, assignment) * weight
            by_layer[name] = loss / term.divisor(predictions, num_objects)
        if len(predictions.logits) > 1:
            record_later({f"last_layer/{stage}{name}": losses[-1] for name, losses in by_layer.items()})
        return {f"loss_{stage}{name}": losses.sum() for name, losses in by_layer.items()}
