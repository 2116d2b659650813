"""Which boxes of an image are kept: the best, without duplicates. N boxes."""

import torch
from torch import Tensor
from torchvision.ops import nms

from dk_detr.commands.build_embedding_bank.settings import Selection


def choose(boxes: Tensor, scores: Tensor, size: tuple[int, int], selection: Selection) -> tuple[Tensor, Tensor]:
    """Clip, drop what is too small, then duplicates, and keep the best.

    Args:
        boxes: (N, 4) xyxy in pixels of the image. scores: (N,), finite. size: (h, w).

    Returns: boxes and scores, the best first.
    """
    height, width = size
    boxes, scores = boxes.float().cpu(), scores.float().cpu()
    boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))
    order = scores.argsort(descending=True, stable=True)
    order = order[(boxes[order, 2:] - boxes[order, :2] >= selection.min_side).all(1)][: selection.candidates]
    kept = order[nms(boxes[order], scores[order], selection.nms)][: selection.regions]
    return boxes[kept], scores[kept]
