"""Target-aware feature distillation: features count where the teacher's good queries look.

T layers of the teacher, B images, M queries, K classes, C channels, S cells of a level, O objects of the fullest image.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.layers import iou, to_xyxy
from dk_detr.structures import DETECTION, Predictions, Targets
from projects.DETRDistill.detrdistill.features import Level, PairedLevels, adapters, paired_levels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import probabilities
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term

BEST = 100  # pairs of a query and a class that the release counts
LEAST = 1e-2  # of the release's mask


class TargetAwareFeatures(Term):
    """Mean squares of the difference of features, weighted by cells; sums over levels.

    The paper's form: a cell weighs as much as queries of the teacher resemble it, each by its quality (eq. 9), the mean
    of all layers, divided by the largest of the image. The release's form: see `release_weights`; sums over layers.

    Args:
        levels: that are compared. adapters: of the student's channels, for each level. activation: of the teacher's
            classifier. weight: λ2. gamma: γ. variant: "paper" or "release".

    Source: DETRDistill (ICCV 2023), eq. 6 to 9. There the resemblance is a dot product; here it is a cosine, at least
    0, as features of each level have their own scale.
    """

    def __init__(
        self,
        levels: PairedLevels,
        adapters: nn.ModuleList,
        activation: str,
        weight: float = 1.0,
        gamma: float = 0.5,
        variant: str = "paper",
    ) -> None:
        super().__init__()
        self.levels, self.adapters, self.activation = levels, adapters, activation
        self.weight, self.gamma, self.variant = weight, gamma, variant

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "TargetAwareFeatures":
        """See `Term`."""
        own, release = kd.TARGET_AWARE_FEATURES, kd.VARIANT == "release"
        levels = paired_levels("neck" if release else kd.TAP, student, teacher)
        activation = teacher.classifier.activation
        return cls(levels, adapters(levels, student, teacher), activation, own.WEIGHT, own.GAMMA, kd.VARIANT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        hidden_states = step.teacher.hidden_states[DETECTION]
        compare = self._of_release if self.variant == "release" else self._of_paper
        quality = self._quality(step)
        losses = [
            compare(adapt(level.student).float(), level, hidden_states, quality)
            for level, adapt in zip(self.levels(step), self.adapters)
        ]
        return {"": self.weight * torch.stack(losses).sum()}

    def _quality(self, step: Step) -> Tensor:
        """(T, B, M), without gradient."""
        if self.variant == "release":
            return counted_scores(step.teacher.detections, step.targets, self.activation)
        return qualities(step.teacher.detections, step.targets, self.activation, self.gamma)

    @staticmethod
    def _of_paper(ours: Tensor, level: Level, hidden_states: Tensor, quality: Tensor) -> Tensor:
        weights = torch.stack([query_weights(level.teacher, *each) for each in zip(hidden_states, quality)]).mean(0)
        weights = over_the_largest(weights * level.valid)
        return weighted_squares(ours - level.teacher, weights, level.num_valid)

    @staticmethod
    def _of_release(ours: Tensor, level: Level, hidden_states: Tensor, quality: Tensor) -> Tensor:
        """Two maps, both multiplied by a mask, and their mean square, padding included."""
        masks = torch.stack([release_mask(level.teacher, *each) for each in zip(hidden_states, quality)])
        cells = torch.full_like(level.num_valid, level.valid[0].numel())
        return weighted_squares(ours - level.teacher, masks.square().sum(0), cells)


def weighted_squares(difference: Tensor, weights: Tensor, cells: Tensor) -> Tensor:
    """(B, C, h, w), (B, h, w) and (B,) how many cells there are -> the weighted mean square, mean over images."""
    squares = difference.square().mean(1) * weights
    return (squares.sum((1, 2)) / cells).mean()


def query_weights(features: Tensor, queries: Tensor, quality: Tensor) -> Tensor:
    """(B, C, h, w) features, (B, M, C) queries, (B, M) quality -> (B, h, w), Σ_i q_i ψ_i² / M: equation 9 of all
    queries in one map."""
    seen = _cosines(features, queries).clamp(min=0)
    return torch.einsum("bmhw,bm->bhw", seen.square(), quality) / queries.shape[1]


def release_mask(features: Tensor, queries: Tensor, counted: Tensor) -> Tensor:
    """The same arguments, `counted` by `counted_scores` -> (B, h, w) in (0, 1]."""
    mask = torch.einsum("bmhw,bm->bhw", _cosines(features, queries), counted)
    return over_the_largest(mask.clamp(min=LEAST))


def over_the_largest(weights: Tensor) -> Tensor:
    """(B, h, w) divided by the largest of each image; 0 where all are."""
    return weights / weights.amax((1, 2), keepdim=True).clamp(min=1e-12)


def _cosines(features: Tensor, queries: Tensor) -> Tensor:
    """(B, M, h, w)."""
    return torch.einsum("bmc,bchw->bmhw", F.normalize(queries.float(), dim=-1), F.normalize(features, dim=1))


def qualities(predictions: Predictions, targets: Targets, activation: str, gamma: float) -> Tensor:
    """(T, B, M) of each query the largest c^γ · IoU^(1-γ) with an object, c being the probability of the object's
    class: equation 8, for queries that no object is matched with, too. 0 for images without objects."""
    if not any(targets.counts):
        return predictions.boxes.new_zeros(predictions.boxes.shape[:3], dtype=torch.float32)
    scores, overlaps = probabilities(predictions.logits, activation), _overlaps(predictions, targets)
    labels = targets.padded[0][None, :, None].expand(*scores.shape[:3], -1)
    return (scores.gather(-1, labels).pow(gamma) * overlaps.pow(1 - gamma)).amax(-1) * _has_objects(targets)


def counted_scores(predictions: Predictions, targets: Targets, activation: str, number: int = BEST) -> Tensor:
    """(T, B, M) of each query the sum of its scores among the best `number` pairs of a query and a class, times its
    largest IoU with an object of any class: the release's. Images without objects count scores alone."""
    scores = probabilities(predictions.logits, activation)
    flat = scores.flatten(2)
    best, index = flat.topk(min(number, flat.shape[-1]), dim=-1)
    summed = torch.zeros_like(scores[..., 0]).scatter_add(-1, index // scores.shape[-1], best)
    if not any(targets.counts):
        return summed
    return summed * torch.where(_has_objects(targets).bool(), _overlaps(predictions, targets).amax(-1), 1.0)


def _overlaps(predictions: Predictions, targets: Targets) -> Tensor:
    """(T, B, M, O) IoU, 0 beyond an image's objects."""
    ours, objects = to_xyxy(predictions.boxes.float()), to_xyxy(targets.padded[1].float())
    return iou(ours[..., None, :], objects[:, None])


def _has_objects(targets: Targets) -> Tensor:
    """(B, 1), 1 or 0."""
    return targets.padded[1].new_tensor([[float(count > 0)] for count in targets.counts])
