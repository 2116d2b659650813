"""Where the regions of an image are once it has been resized, flipped and cropped. N stored, M kept, E width.

A mirrored image keeps the embeddings of the unmirrored one: what an object is called does not depend on its side.
"""

from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from dk_detr.data.bank.regions import StoredRegions

IN_VIEW = 0.5  # share of a region's area that must be left, or its embedding is of something else


def follow(
    stored: StoredRegions, transforms: Any, image_size: tuple[int, int], count: int, min_side: float = 0.0
) -> Instances:
    """The regions that an augmented image shows.

    Args:
        transforms: Detectron2's or fvcore's, as they were applied to the image.
        image_size: (h, w) of the augmented image. count: regions, at most.
        min_side: regions with a shorter side, in pixels of the augmented image, are dropped.

    Returns: Instances with proposal_boxes (M, 4) in pixels of the augmented image, clipped; objectness_logits (M,);
        embeddings (M, E) float16; the best first.
    """
    moved = transforms.apply_box(stored.boxes_xyxy_abs.numpy().astype(np.float64)).reshape(-1, 4)
    height, width = image_size
    clipped = moved.clip(0, [width, height, width, height])
    whole, left = _sides(moved), _sides(clipped)
    keep = (left.prod(1) >= IN_VIEW * whole.prod(1)) & (left >= max(min_side, np.finfo(np.float32).tiny)).all(1)
    chosen = torch.from_numpy(np.flatnonzero(keep)[:count])
    return Instances(
        image_size,
        proposal_boxes=Boxes(torch.from_numpy(clipped).float()[chosen]),
        objectness_logits=stored.objectness[chosen],
        embeddings=stored.embeddings[chosen],
    )


def _sides(boxes_xyxy: np.ndarray) -> np.ndarray:
    """(N, 2) widths and heights."""
    return boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
