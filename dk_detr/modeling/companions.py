"""Companions: a query beside each detection query, at its proposal, that learns from the teacher alone.

B images, Q queries, C channels.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from dk_detr.layers import to_xyxy
from dk_detr.structures import DETECTION, Memory, QueryGroup

AUXILIARY = "auxiliary"
CONTENTS = ("Learned", "Regions")  # of companions at the start, in MODEL.KD.CONTENT
CELLS, CELL_CHANNELS = 7, 32  # of a region: 7×7 as in ViLD's heads


class Companions(nn.Module):
    """The auxiliary queries of DK-DETR, part of a detector that asks them for novel words at inference, too.

    Args:
        num_queries: Q. channels: C. attends_to, reference: see `companions_of`. content: what they know at the start:
            "Learned", the same in all images; "Regions", what is seen at their proposal, too.

    Source: DK-DETR (ICCV 2023), where contents are learned, and nothing of this is left at inference.
    """

    def __init__(
        self, num_queries: int, channels: int, attends_to: Sequence[str], reference: str, content: str = "Learned"
    ) -> None:
        super().__init__()
        self.content = zero_contents(num_queries, channels)
        self.attends_to, self.reference = tuple(attends_to), reference
        self.region = RegionContent(channels) if content == "Regions" else None

    def forward(self, detection: QueryGroup, memory: Memory) -> QueryGroup:
        """See `companions_of`."""
        group = companions_of(detection, self.content.weight, self.attends_to, self.reference)
        if self.region is None:
            return group
        assert detection.reference is not None  # distillation/from_config.py lets proposals pass only
        seen = self.region(detection.reference, memory)
        return replace(group, content=group.content + seen.to(group.content.dtype))


class RegionContent(nn.Module):
    """What the finest level of the memory shows in a box, cut out as the teacher's crops are, place by place.

    Args:
        channels: C.

    Source: of the layout, the heads of Mask R-CNN (ICCV 2017), by which ViLD learns from its teacher.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, CELL_CHANNELS)
        self.project = nn.Sequential(
            nn.Linear(CELLS**2 * CELL_CHANNELS, 2 * channels),
            nn.ReLU(),
            nn.Linear(2 * channels, channels),
            nn.LayerNorm(channels),
        )

    def forward(self, boxes: Tensor, memory: Memory) -> Tensor:
        """(B, Q, 4) boxes, cxcywh in [0, 1] of the unpadded image, without gradient -> (B, Q, C)."""
        h, w = memory.shapes[0]
        level = self.reduce(memory.tokens[:, : h * w]).transpose(1, 2).unflatten(2, (h, w)).float()
        sides = level.new_tensor([[w, h]]) if memory.valid_size is None else memory.valid_size[:, 0].float()
        corners = to_xyxy(boxes.detach().float()) * torch.cat([sides, sides], dim=-1)[:, None]
        seen = roi_align(level, list(corners.unbind()), output_size=CELLS, sampling_ratio=1, aligned=True)
        projected: Tensor = self.project(seen.flatten(1))
        return projected.unflatten(0, boxes.shape[:2])


def companions_of(
    detection: QueryGroup, content: Tensor, attends_to: tuple[str, ...], reference: str
) -> QueryGroup:
    """Queries at the same positions and references.

    Args:
        content: (at least Q, C) what they know at the start. attends_to: groups that they see in self-attention.
        reference: "follow" the refined boxes of the detection queries, or "stay" at the proposals, where the teacher
            looks.
    """
    return QueryGroup(
        AUXILIARY,
        content=of_each_image(content[: len(detection)], detection),
        position=detection.position,
        reference=detection.reference,
        attends_to=attends_to,
        reference_from=DETECTION if reference == "follow" else None,
        valid=detection.valid,
    )


def zero_contents(number: int, channels: int) -> nn.Embedding:
    """Zero, not noise: all slots start alike, and near what detection queries know. Noise cost the mini world 7 points
    of base and 5 of novel AP50 (configs/mini/README.md)."""
    content = nn.Embedding(number, channels)
    nn.init.zeros_(content.weight)
    return content


def of_each_image(content: Tensor, detection: QueryGroup) -> Tensor:
    """(Q, C) -> (B, Q, C) beside the detection queries."""
    return content.to(detection.content.dtype).expand(len(detection.content), -1, -1)
