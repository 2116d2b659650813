"""Matching: which prediction answers for which object, at the lowest total cost.

D layers, B images, Q queries, K classes, M objects of the fullest image.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from dk_detr.criterion.class_losses import ClassLoss, Focal
from dk_detr.criterion.terms import BOX_TERMS, L1_FORMS, Term
from dk_detr.structures import Assignment, Predictions, Targets
from dk_detr.utils import choose

_NEVER = 1e6  # costs are of order 10


class HungarianMatcher:
    """One prediction for each object, each at most once, for each layer and image by itself.

    Args:
        costs: weight of each of the terms in the sum to be lowest. None for those of Deformable DETR.
        class_loss: the term "class"; None for `Focal`. l1: the term "l1", by its name in `L1_FORMS`.

    Attributes:
        terms: all that there are, by name.

    Source: DETR (ECCV 2020).
    """

    def __init__(
        self, costs: Mapping[str, float] | None = None, class_loss: ClassLoss | None = None, l1: str = "cxcywh"
    ) -> None:
        self.terms: dict[str, Term] = {"class": class_loss or Focal()}
        self.terms |= {name: term() for name, term in BOX_TERMS.items()}
        self.terms["l1"] = choose(L1_FORMS, "MODEL.DETR.LOSS.L1", l1)()
        self.costs = dict({"class": 2.0, "l1": 5.0, "giou": 2.0} if costs is None else costs)
        require_terms(self.costs, self.terms)

    @torch.no_grad()
    def __call__(self, predictions: Predictions, targets: Targets) -> Assignment:
        """Match. An image without objects matches nothing; objects beyond Q stay unmatched."""
        if not any(targets.counts):
            return _assignment([], predictions.boxes.device)
        # One matrix for all layers and images, one transfer to the host.
        cost = self.cost(predictions, targets).cpu().numpy()
        pairs: list[tuple[np.ndarray, ...]] = []
        for layer, of_layer in enumerate(cost):
            for image, count in enumerate(targets.counts):
                query, target = linear_sum_assignment(of_layer[image, :, :count])
                pairs.append((np.full_like(query, layer), np.full_like(query, image), query, target))
        return _assignment(pairs, predictions.boxes.device)

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """(D, B, Q, M) what it would cost to match; columns beyond an image's objects mean nothing."""
        weighted = [weight * self.terms[name].cost(predictions, targets) for name, weight in self.costs.items()]
        cost = sum(weighted[1:], start=weighted[0])
        if predictions.valid is not None:
            cost = cost.masked_fill(~predictions.valid[None, :, :, None], _NEVER)
        # A broken prediction must reach the loss, where it is reported with its images, not stop the assignment.
        return cost.nan_to_num(nan=_NEVER, posinf=_NEVER, neginf=-_NEVER)


def require_terms(names: Iterable[str], terms: Mapping[str, Term]) -> None:
    """Raises ValueError for a name that is no term, and for none."""
    unknown = sorted(set(names) - set(terms))
    if unknown:
        raise ValueError(f"Unknown loss terms {unknown}; choose from {sorted(terms)}.")
    if not names:
        raise ValueError(f"No loss term is named; choose from {sorted(terms)}.")


def _assignment(pairs: list[tuple[np.ndarray, ...]], device: torch.device) -> Assignment:
    columns = [np.concatenate(column) for column in zip(*pairs)] if pairs else [np.zeros(0, dtype=np.int64)] * 4
    return Assignment(*torch.from_numpy(np.stack(columns).astype(np.int64)).to(device))
