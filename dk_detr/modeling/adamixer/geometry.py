"""Boxes as AdaMixer sees them: centre, scale and ratio in pixels. B images, Q queries."""

import torch
from torch import Tensor

from dk_detr.layers import to_xyxy
from dk_detr.structures.features import Shapes

LEAST_SIDE = 1e-6  # pixels; its logarithm is a number
PIXELS_OF_A_UNIT = 1000.0  # of x and y in the code of a box
TEMPERATURE = 10000.0


def sides_of(image_sizes: Shapes, device: torch.device) -> Tensor:
    """(B, 1, 4) w, h, w, h of the images (h, w): what boxes cxcywh in [0, 1] are multiplied by for pixels."""
    return torch.tensor([(w, h, w, h) for h, w in image_sizes], dtype=torch.float32, device=device)[:, None]


def scale_and_ratio(boxes: Tensor) -> Tensor:
    """(…, 4) cxcywh in pixels -> (…, 2): z, the logarithm to base 2 of the geometric mean of the sides, and r, that of
    height / width."""
    width, height = boxes[..., 2:].clamp(min=LEAST_SIDE).log2().unbind(-1)
    return torch.stack([(width + height) / 2, height - width], dim=-1)


def code_of_boxes(boxes: Tensor, channels: int) -> Tensor:
    """(…, 4) cxcywh in pixels -> (…, C): sines and cosines, interleaved, of x and y in thousands of pixels, of z and of
    r. Unlike the sine codes of the DETRs these count angles in the units themselves, without 2π."""
    numbers = torch.cat([boxes[..., :2] / PIXELS_OF_A_UNIT, scale_and_ratio(boxes)], dim=-1)
    width = channels // 4
    index = 2 * (torch.arange(width, device=boxes.device) // 2) / width
    angles = numbers[..., None] / TEMPERATURE**index
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-3)


def log_iof(boxes: Tensor) -> Tensor:
    """(B, Q, 4) cxcywh in pixels -> (B, Q, Q): the logarithm of the intersection over the area of the row's box. It is
    0 where that lies inside the column's box, and the logarithm of the ratio of areas the other way round."""
    corners = to_xyxy(boxes)
    low = torch.maximum(corners[:, :, None, :2], corners[:, None, :, :2])
    high = torch.minimum(corners[:, :, None, 2:], corners[:, None, :, 2:])
    area = (corners[..., 2:] - corners[..., :2]).prod(-1).clamp(min=1e-6)
    return ((high - low).clamp(min=0).prod(-1) / area[..., None] + 1e-7).log()
