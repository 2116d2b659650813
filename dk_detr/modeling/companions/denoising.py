"""Denoising: queries that start from the ground truth with noise, and know which object they answer for.

B images, M objects of the fullest image, G groups, N noisy queries, K words of training, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import to_cxcywh, to_xyxy
from dk_detr.structures import Assignment, QueryGroup, Targets, hide
from dk_detr.structures.queries import DETECT

NOISY = "noisy"
LEAST = 1e-3  # of the sides of noisy boxes, and of their centres' distance from the border: logits stay finite


@dataclass(frozen=True)
class Noisy:
    """What denoising adds to a step.

    Attributes:
        group: the queries. assignment: what they answer for, as of one decoder layer.
        real: (B, N) bool, False for queries that only fill up images with fewer objects. num_groups: G.
    """

    group: QueryGroup
    assignment: Assignment
    real: Tensor
    num_groups: int


class Denoising(nn.Module):
    """Each object, G times, its box moved and its label flipped at times; nothing is matched.

    Groups do not see one another, nor do detection queries see them; they see these.

    Args:
        channels: C. num_words: K. groups: G. label_noise: share of the labels that become one drawn from all words.
        box_noise: centres move by up to this share of half the sides, and sides change by up to this share.

    Source: DN-DETR (CVPR 2022). Its contents are of C - 1 learned numbers and an indicator; all C are learned here, of
    which an indicator is one case.
    """

    copies = 1  # of an object in a group

    @configurable
    def __init__(
        self, channels: int, num_words: int, groups: int = 5, label_noise: float = 0.2, box_noise: float = 0.4
    ) -> None:
        super().__init__()
        self.groups, self.label_noise, self.box_noise = groups, label_noise, box_noise
        self.content = nn.Embedding(num_words, channels)

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        noise = cfg.MODEL.DETR.DENOISING
        return {
            "channels": cfg.MODEL.DETR.CHANNELS,
            "num_words": num_words,
            "groups": noise.GROUPS,
            "label_noise": noise.LABEL_NOISE,
            "box_noise": noise.BOX_NOISE,
        }

    def forward(
        self, targets: Targets, like: Tensor, position_of: Callable[[Tensor, torch.dtype], Tensor | None]
    ) -> Noisy | None:
        """The queries of a batch; None where it has no objects.

        Args:
            like: (B, …) gives device and precision. position_of: of the detection queries, see `Proposals`.
        """
        most = max(targets.counts, default=0)
        if most == 0:
            return None
        num_groups = self.num_groups(most)
        labels, boxes = (x.repeat(1, num_groups * self.copies, *[1] * (x.ndim - 2)) for x in targets.padded())
        place = torch.arange(labels.shape[1], device=like.device)
        real = place % most < torch.tensor(targets.counts, device=like.device)[:, None]
        group = place // (most * self.copies)
        blocked = group[:, None] != group
        if min(targets.counts) < most:
            blocked = blocked | hide(real)
        is_negative = place // most % self.copies == 1
        noisy = self.noisy_boxes(boxes, is_negative).clamp(LEAST, 1 - LEAST)
        content = self.content(self.noisy_labels(labels)).to(like.dtype)
        image, query = (real & ~is_negative).nonzero(as_tuple=True)
        return Noisy(
            QueryGroup(NOISY, content, position_of(noisy, like.dtype), noisy, (NOISY, DETECT), NOISY, blocked),
            Assignment(torch.zeros_like(image), image, query, query % most),
            real,
            num_groups,
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


class ContrastiveDenoising(Denoising):
    """Beside each noisy object one that is farther off, and must be called nothing.

    Args:
        queries: about twice as many are made: there are as many groups as fit, at least one. box_noise: corners move by
            up to this share of half the sides, in x and y; those of the second box by more, up to twice that.

    Source: DINO (ICLR 2023), §3.3, and its release.
    """

    copies = 2

    @configurable
    def __init__(
        self, channels: int, num_words: int, queries: int = 100, label_noise: float = 0.25, box_noise: float = 1.0
    ) -> None:
        super().__init__(channels, num_words, 1, label_noise, box_noise)
        self.queries = queries

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        noise = cfg.MODEL.DETR.CONTRASTIVE_DENOISING
        return {
            "channels": cfg.MODEL.DETR.CHANNELS,
            "num_words": num_words,
            "queries": noise.QUERIES,
            "label_noise": noise.LABEL_NOISE,
            "box_noise": noise.BOX_NOISE,
        }

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
