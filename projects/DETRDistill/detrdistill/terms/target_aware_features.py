"""Target-aware feature distillation: features count where the teacher's good queries look.

T layers of the teacher, B images, M queries, K classes, C channels, O objects of the fullest image.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from dk_detr.layers import iou, to_xyxy
from dk_detr.structures import DETECTION, Predictions, Targets
from projects.DETRDistill.detrdistill.features import Level, PairedLevels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import counted_queries, full_precision, probabilities
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import FeatureTerm

BEST = 100  # pairs of a query and a class that the release counts
LEAST = 1e-2  # of the release's mask


class TargetAwareFeatures(FeatureTerm):
    """Mean squares of the difference of features, weighted by cells.

    The paper's form: a cell weighs as much as queries of the teacher resemble it, each by its quality (eq. 9), the mean
    of all layers, divided by the largest of the image. The release's form: both maps are multiplied by `release_mask`;
    sums over layers.

    Args:
        activation: of the teacher's classifier. weight: λ2. gamma: γ. variant: "paper" or "release".

    Source: DETRDistill (ICCV 2023), eq. 6 to 9. There the resemblance is a dot product; here it is a cosine, at least
    0, as features of each level have their own scale.
    """

    asks_words = True

    def __init__(
        self, levels: PairedLevels, activation: str, weight: float = 1.0, gamma: float = 0.5, variant: str = "paper"
    ) -> None:
        super().__init__(levels)
        self.activation, self.weight, self.gamma, self.variant = activation, weight, gamma, variant

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "TargetAwareFeatures":
        """See `Term`."""
        own, levels = kd.TARGET_AWARE_FEATURES, PairedLevels.of(kd.TAP, student, teacher)
        return cls(levels, teacher.activation, own.WEIGHT, own.GAMMA, own.VARIANT)

    def of_level(self, number: int, level: Level, step: Step) -> dict[str, Tensor]:
        """See `FeatureTerm`."""
        of_variant = self._of_release if self.variant == "release" else self._of_paper
        return {"": self.weight * of_variant(level, step)}

    def _of_paper(self, level: Level, step: Step) -> Tensor:
        quality = qualities(step.teacher.detections, step.targets, self.activation, self.gamma)
        queries = zip(step.teacher.hidden_states[DETECTION], quality)
        weights = torch.stack([query_weights(level.teacher, *each) for each in queries]).mean(0)
        return level.weighted_squares(over_the_largest(weights * level.valid))

    def _of_release(self, level: Level, step: Step) -> Tensor:
        """Padding is counted, too."""
        counted = counted_scores(step.teacher.detections, step.targets, self.activation)
        queries = zip(step.teacher.hidden_states[DETECTION], counted)
        masks = torch.stack([release_mask(level.teacher, *each) for each in queries])
        all_cells = torch.full_like(level.num_valid, level.valid[0].numel())
        return level.weighted_squares(masks.square().sum(0), all_cells)


def query_weights(features: Tensor, queries: Tensor, quality: Tensor) -> Tensor:
    """(B, C, h, w) features, (B, M, C) queries, (B, M) quality -> (B, h, w), Σ_i q_i ψ_i² / M: equation 9 of all
    queries in one map."""
    with full_precision(features):
        seen = _cosines(features, queries).clamp(min=0)
        return torch.einsum("bmhw,bm->bhw", seen.square(), quality) / queries.shape[1]


def release_mask(features: Tensor, queries: Tensor, counted: Tensor) -> Tensor:
    """The same arguments, `counted` by `counted_scores` -> (B, h, w) in (0, 1]."""
    with full_precision(features):
        mask = torch.einsum("bmhw,bm->bhw", _cosines(features, queries), counted)
        return over_the_largest(mask.clamp(min=LEAST))


def over_the_largest(weights: Tensor) -> Tensor:
    """(B, h, w) divided by the largest of each image; 0 where all are."""
    return weights / weights.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _cosines(features: Tensor, queries: Tensor) -> Tensor:
    """(B, M, h, w)."""
    rows, maps = F.normalize(queries.float(), dim=-1), F.normalize(features.float(), dim=1)
    return torch.einsum("bmc,bchw->bmhw", rows, maps)


def qualities(predictions: Predictions, targets: Targets, activation: str, gamma: float) -> Tensor:
    """(T, B, M) of each query the largest c^γ · IoU^(1-γ) with an object, c being the probability of the object's
    class: equation 8, for queries that no object is matched with, too. 0 for images without objects."""
    if not any(targets.counts):
        return predictions.boxes.new_zeros(predictions.boxes.shape[:3], dtype=torch.float32)
    scores, overlaps = probabilities(predictions.logits, activation), _overlaps(predictions, targets)
    labels = targets.padded[0][None, :, None].expand(*scores.shape[:3], -1)
    quality = scores.gather(-1, labels).pow(gamma) * overlaps.pow(1 - gamma)
    return (quality * targets.real[:, None]).amax(-1) * counted_queries(predictions)


def counted_scores(predictions: Predictions, targets: Targets, activation: str, number: int = BEST) -> Tensor:
    """(T, B, M) of each query the sum of its scores among the best `number` pairs of a query and a class, times its
    largest IoU with an object of any class: the release's. Images without objects count scores alone."""
    scores = probabilities(predictions.logits, activation) * counted_queries(predictions)[..., None]
    flat = scores.flatten(2)
    best, index = flat.topk(min(number, flat.shape[-1]), dim=-1)
    summed = torch.zeros_like(scores[..., 0]).scatter_add(-1, index // scores.shape[-1], best)
    if not any(targets.counts):
        return summed
    overlaps = (_overlaps(predictions, targets) * targets.real[:, None]).amax(-1)
    return summed * torch.where(targets.real.any(1, keepdim=True), overlaps, 1.0)


def _overlaps(predictions: Predictions, targets: Targets) -> Tensor:
    """(T, B, M, O) IoU; what stands beyond an image's objects means nothing."""
    ours, objects = to_xyxy(predictions.boxes.float()), to_xyxy(targets.padded[1].float())
    return iou(ours[..., None, :], objects[:, None])
