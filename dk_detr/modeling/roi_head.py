"""ROIHead: what a box shows, in the space of CLIP's image embeddings, read from the encoder's memory.

B images, Q queries, N boxes, C channels, E text width.
"""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torchvision.ops import roi_align

from dk_detr.layers import to_xyxy
from dk_detr.structures import Memory

CELLS, CELL_CHANNELS, WIDENING = 7, 64, 4  # 7×7 cells, as in the heads of Mask R-CNN


class ROIHead(nn.Module):
    """Cuts a box out of the memory's finest level as the teacher's crops are cut, and keeps where in it things lie.

    No label trains it, only a teacher: it does not take new things for what has labels.

    Args:
        channels: C. width: E.

    Source: ours; ViLD (ICLR 2022) learns from its teacher by such a head, in a Mask R-CNN.
    """

    @configurable
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, CELL_CHANNELS)
        self.embed = nn.Sequential(
            nn.Linear(CELLS**2 * CELL_CHANNELS, WIDENING * channels),
            nn.ReLU(),
            nn.Linear(WIDENING * channels, channels),
            nn.LayerNorm(channels),
            nn.Linear(channels, width),
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int) -> dict[str, Any]:
        return {"channels": cfg.MODEL.DETR.CHANNELS, "width": width}

    def forward(self, boxes: Tensor, image: Tensor, memory: Memory) -> Tensor:
        """Read.

        Args:
            boxes: (N, 4) cxcywh in [0, 1] of the unpadded image; no gradient reaches them. image: (N,) of the batch.

        Returns: (N, E), not normalised.
        """
        h, w = memory.shapes[0]
        level = self.reduce(memory.tokens[:, : h * w]).transpose(1, 2).unflatten(2, (h, w)).float()
        whole = torch.tensor([[w, h]], dtype=level.dtype, device=level.device).expand(level.shape[0], 2)
        sides = whole if memory.valid_size is None else memory.valid_size[:, 0].float()
        corners = to_xyxy(boxes.detach().float()) * sides.repeat(1, 2)[image]
        rois = torch.cat([image[:, None].to(corners.dtype), corners], dim=1)
        cells = roi_align(level, rois, output_size=CELLS, sampling_ratio=1, aligned=True)
        embeddings: Tensor = self.embed(cells.flatten(1))
        return embeddings

    def of_queries(self, boxes: Tensor, memory: Memory) -> Tensor:
        """(B, Q, 4) boxes of each image -> (B, Q, E)."""
        image = torch.arange(boxes.shape[0], device=boxes.device)[:, None].expand(boxes.shape[:2]).flatten()
        return self(boxes.flatten(0, 1), image, memory).unflatten(0, boxes.shape[:2])
