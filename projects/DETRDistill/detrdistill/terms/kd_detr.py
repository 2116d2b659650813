"""KD-DETR: both detectors answer the same queries, so that their answers pair without matching.

P pairs of layers, B images, M queries, K classes.
"""

from collections.abc import Mapping, Sequence

from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from dk_detr.structures import DETECTION, Predictions
from projects.DETRDistill.detrdistill.points import GENERAL, SPECIFIC
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import (
    Comparison,
    class_loss,
    counted_queries,
    probabilities,
    shares,
)
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term

LAYERS, CLASSES = ("each", "last"), ("softmax", "sigmoid")
POINTS = {"specific": SPECIFIC, "general": GENERAL}
"""By their name in MODEL.DETRDISTILL.KD_DETR.POINTS: the query group."""


class KDDETR(Term):
    """Classes and boxes of each query. Queries are weighted by the largest probability that the teacher gives them:
    weighted means over an image, then means over images; sums over layers.

    Args:
        activation: of both classifiers. points: names in `POINTS`. weights: of "CLASS", "L1", "GIOU".
        temperature: of the softmax over classes. classes: "softmax" over all, or "sigmoid" of each (ours).
        layers: "each" learns from its own, or all from the teacher's "last".

    Source: KD-DETR, Wang et al. (CVPR 2024); its authors published no code, and what others made of it differs.
    """

    def __init__(
        self,
        activation: str,
        points: Sequence[str],
        weights: Mapping[str, float],
        temperature: float = 10.0,
        classes: str = "softmax",
        layers: str = "each",
    ) -> None:
        super().__init__()
        self.activation, self.weights, self.temperature = activation, dict(weights), temperature
        self.classes, self.layers = classes, layers
        self.points, self.groups = tuple(points), tuple(POINTS[name] for name in points)

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "KDDETR":
        """See `Term`."""
        own = kd.KD_DETR
        return cls(teacher.activation, own.POINTS, own.WEIGHTS, own.TEMPERATURE, own.CLASSES, own.LAYERS)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        stages = step.stages.from_the_last() if self.layers == "last" else step.stages
        losses: dict[str, Tensor] = {}
        for points, group in zip(self.points, self.groups):
            ours, theirs = step.in_pairs(group, DETECTION if group == SPECIFIC else group, stages)
            share = shares(probabilities(theirs.logits, self.activation).amax(-1), counted_queries(theirs))
            weight = stages.weights(share)[:, None, None] * share / share.shape[1]
            losses |= {f"{points}_{name}": loss for name, loss in self._of(ours, theirs, weight, step).items()}
        return losses

    def _of(self, ours: Predictions, theirs: Predictions, weight: Tensor, step: Step) -> dict[str, Tensor]:
        """`weight`: (P, B, M)."""
        boxes = Comparison(self.activation, step.box_form, self.weights).box_losses(ours.boxes.float(), theirs.boxes)
        by_query = {"class": self.weights["CLASS"] * self._divergence(ours.logits, theirs.logits), **boxes}
        return {name: (weight * losses).sum() for name, losses in by_query.items()}

    def _divergence(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """(P, B, M, K) logits of both -> (P, B, M)."""
        if self.classes == "sigmoid":
            return class_loss(ours.float(), theirs.float(), "sigmoid")
        a, b = ((logits.float() / self.temperature).log_softmax(-1) for logits in (ours, theirs))
        return F.kl_div(a, b, reduction="none", log_target=True).sum(-1) * self.temperature**2
