"""SetCriterion: the detection loss of a set of predictions, every layer supervised."""

import torch
from torch import Tensor

from dk_detr.criterion.matcher import HungarianMatcher
from dk_detr.criterion.normaliser import number_of_objects
from dk_detr.criterion.terms import class_loss, giou_loss, l1_loss
from dk_detr.structures import Assignment, Predictions, Targets, record, timed

TERMS = {"class": class_loss, "l1": l1_loss, "giou": giou_loss}


class SetCriterion:
    """Match, then weigh and sum the terms over all layers.

    Args:
        matcher: assigns objects to predictions. weights: weight of each of the terms "class", "l1" and "giou".
    """

    def __init__(self, matcher: HungarianMatcher, weights: dict[str, float]) -> None:
        unknown = set(weights) - set(TERMS)
        if unknown:
            raise ValueError(f"Unknown loss terms {sorted(unknown)}; choose from {sorted(TERMS)}.")
        self.matcher, self.weights = matcher, weights

    def __call__(
        self, predictions: Predictions, targets: Targets, stage: str = ""
    ) -> tuple[dict[str, Tensor], Assignment]:
        """Returns the weighted losses `loss_<stage><term>`, each summed over layers and divided by the number of
        objects in the whole batch of all workers; and the assignment they rest on."""
        with timed(f"matching_{stage}".rstrip("_")):
            assignment = self.matcher(predictions, targets)
        count = number_of_objects(targets, predictions.logits.device)
        by_layer = {name: TERMS[name](predictions, targets, assignment) * w / count for name, w in self.weights.items()}
        if by_layer and len(predictions.logits) > 1:
            last = torch.stack([losses[-1].detach() for losses in by_layer.values()]).tolist()  # one wait for all
            for name, value in zip(by_layer, last):
                record(f"last_layer/{name}", value)
        return {f"loss_{stage}{name}": losses.sum() for name, losses in by_layer.items()}, assignment
