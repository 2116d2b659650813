"""Denoising: queries that start from the ground truth with noise, and know which object they answer for.

B images, M objects of the fullest image, G groups, N noisy queries, K words of training, C channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.extensions.extension import BuildContext, Plan, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.layers import to_cxcywh, to_xyxy
from dk_detr.modeling import QUERIES
from dk_detr.structures import DETECTION, Assignment, QueryGroup

DENOISING = "denoising"
LEAST = 1e-3  # of the sides of noisy boxes, and of their centres' distance from the border: logits stay finite


@dataclass(frozen=True)
class DenoisingPlan(Plan):
    """What denoising adds to a step.

    Attributes:
        groups: one; none where the batch has no objects.
        assignment: what its queries answer for, as of one decoder layer; None without any. num_groups: G.
    """

    assignment: Assignment | None = None
    num_groups: int = 0


class Denoising(TrainingExtension[DenoisingPlan]):
    """Each object gives G queries with a noisy box and, at times, a wrong label. Nothing is matched: a query knows its
    object.

    The G groups do not see one another, and detection queries see none of them; they see the detection queries.

    Args:
        channels: C. num_words: K. criterion: the losses of detections.
        groups: G. label_noise: share of the labels that become one drawn from all words.
        box_noise: centres move by up to this share of half the sides, and sides change by up to this share.

    Source: DN-DETR (CVPR 2022). There a content is C - 1 learned numbers of the label and one that says "denoising";
    here all C numbers are learned, which includes that form.
    """

    prefix, keys = "dn_", "DENOISING"
    copies = 1  # of an object in a group

    @configurable
    def __init__(
        self,
        channels: int,
        num_words: int,
        criterion: SetCriterion,
        groups: int = 5,
        label_noise: float = 0.2,
        box_noise: float = 0.4,
    ) -> None:
        super().__init__()
        if groups < 1:
            raise ValueError(f"MODEL.DETR.{self.keys}.GROUPS must be at least 1, got {groups}.")
        self.criterion = criterion
        self.groups, self.label_noise, self.box_noise = groups, label_noise, box_noise
        self.content = nn.Embedding(num_words, channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        noise = cfg.MODEL.DETR.DENOISING
        return {"groups": noise.GROUPS, **_shared_arguments(cfg, noise, context)}

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode, name: str) -> None:
        """See `TrainingExtension`."""
        queries = cfg.MODEL.DETR.QUERIES
        if not QUERIES[queries].starts_from_boxes:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS "{name}" starts from boxes, MODEL.DETR.QUERIES "{queries}" does not: '
                'choose "Anchors", "Proposals" or "Mixed".'
            )

    def prepare(self, inputs: TrainingInputs) -> DenoisingPlan:
        """See `TrainingExtension`."""
        targets, tokens = inputs.targets, inputs.memory.tokens
        most = max(targets.counts, default=0)
        if most == 0:
            return DenoisingPlan(())
        num_groups = self.num_groups(most)
        labels, boxes = (x.repeat(1, num_groups * self.copies, *[1] * (x.ndim - 2)) for x in targets.padded)
        place = torch.arange(labels.shape[1], device=tokens.device)
        valid = place % most < torch.tensor(targets.counts, device=tokens.device)[:, None]
        group = place // (most * self.copies)
        is_negative = place // most % self.copies == 1
        noisy = self.noisy_boxes(boxes, is_negative).clamp(LEAST, 1 - LEAST)
        queries = QueryGroup(
            DENOISING,
            content=self.content(self.noisy_labels(labels)).to(tokens.dtype),
            position=inputs.queries.position_of(noisy, tokens.dtype),
            reference=noisy,
            attends_to=(DENOISING, DETECTION),
            reference_from=DENOISING,
            blocked=group[:, None] != group,
            valid=valid if min(targets.counts) < most else None,
        )
        image, query = (valid & ~is_negative).nonzero(as_tuple=True)
        assignment = Assignment(torch.zeros_like(image), image, query, query % most)
        return DenoisingPlan((queries,), assignment, num_groups)

    def supervise(self, plan: DenoisingPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`."""
        if plan.assignment is None:
            nothing = self.content.weight.sum() * 0
            return {f"loss_{self.prefix}{term}": nothing for term in self.criterion.weights}
        predictions = outputs.predictions[DENOISING]
        assignment = plan.assignment.of_all_layers(len(predictions.logits))
        return self.criterion.losses(
            predictions, inputs.targets, assignment, inputs.num_objects * plan.num_groups, self.prefix
        )

    def num_groups(self, most: int) -> int:
        """G, where the fullest image has `most` objects."""
        return self.groups

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """(B, N) -> (B, N)."""
        flip = torch.rand(labels.shape, device=labels.device) < self.label_noise
        return torch.where(flip, torch.randint_like(labels, self.content.num_embeddings), labels)

    def noisy_boxes(self, boxes: Tensor, is_negative: Tensor) -> Tensor:
        """(B, N, 4) cxcywh in [0, 1], (N,) bool -> (B, N, 4)."""
        sides = boxes[..., 2:]
        reach = self.box_noise * torch.cat([sides / 2, sides], dim=-1)
        return boxes + reach * (2 * torch.rand_like(boxes) - 1)


class BoxDenoising(Denoising):
    """Denoising of boxes alone: its queries are not told what their object is, and do not say it.

    A decoder that learns boxes from matched queries only learns the outlines of the words that have boxes, and draws
    those around other things. From a noisy box without a word, edges are all that there is to go by.

    Args:
        channels, criterion, groups, box_noise: see `Denoising`.

    Source: ours.
    """

    keys = "BOX_DENOISING"

    @configurable
    def __init__(self, channels: int, criterion: SetCriterion, groups: int = 5, box_noise: float = 0.4) -> None:
        super().__init__(channels, 1, criterion.of_boxes(), groups, 0.0, box_noise)
        nn.init.zeros_(self.content.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        noise = cfg.MODEL.DETR.BOX_DENOISING
        sizes = {"channels": cfg.MODEL.DETR.CHANNELS, "criterion": context.criterion}
        return {**sizes, "groups": noise.GROUPS, "box_noise": noise.BOX_NOISE}

    def noisy_labels(self, labels: Tensor) -> Tensor:
        """See `Denoising`: all are one word."""
        return torch.zeros_like(labels)


class ContrastiveDenoising(Denoising):
    """Adds a negative for each noisy object: a box farther off, whose target is "no object".

    Args:
        queries: positives aimed at; there are as many groups as fit, at least one. Negatives double them.
        box_noise: corners of positives move by up to this share of half the sides, in x and y; those of negatives by
            more, up to twice that.

    Source: DINO (ICLR 2023), §3.3, and its release.
    """

    copies = 2

    @configurable
    def __init__(
        self,
        channels: int,
        num_words: int,
        criterion: SetCriterion,
        queries: int = 100,
        label_noise: float = 0.25,
        box_noise: float = 1.0,
    ) -> None:
        super().__init__(channels, num_words, criterion, 1, label_noise, box_noise)
        if queries < 1:
            raise ValueError(f"MODEL.DETR.CONTRASTIVE_DENOISING.QUERIES must be at least 1, got {queries}.")
        self.queries = queries

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        noise = cfg.MODEL.DETR.CONTRASTIVE_DENOISING
        return {"queries": noise.QUERIES, **_shared_arguments(cfg, noise, context)}

    def num_groups(self, most: int) -> int:
        """See `Denoising`."""
        return max(1, self.queries // most)

    def noisy_boxes(self, boxes: Tensor, is_negative: Tensor) -> Tensor:
        """See `Denoising`."""
        sides = boxes[..., 2:]
        reach = self.box_noise / 2 * torch.cat([sides, sides], dim=-1)
        size = torch.rand_like(boxes) + is_negative[:, None]
        sign = torch.randint_like(boxes, 2) * 2 - 1
        return to_cxcywh((to_xyxy(boxes) + reach * size * sign).clamp(0, 1))


def _shared_arguments(cfg: CfgNode, noise: CfgNode, context: BuildContext) -> dict[str, Any]:
    """Of both kinds of denoising; noise: the group of keys of one."""
    return {
        "channels": cfg.MODEL.DETR.CHANNELS,
        "num_words": len(context.train_vocabulary),
        "criterion": context.criterion,
        "label_noise": noise.LABEL_NOISE,
        "box_noise": noise.BOX_NOISE,
    }
