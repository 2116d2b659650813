"""Boxes: frames, logits and overlaps. A box is cxcywh unless its name says xyxy."""

import torch
from torch import Tensor


def to_xyxy(boxes: Tensor) -> Tensor:
    """(…, 4) cxcywh -> (…, 4) corners."""
    center, size = boxes.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(…, 4) corners -> (…, 4) cxcywh."""
    low, high = boxes_xyxy.split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def to_normalized_cxcywh(boxes_xyxy_abs: Tensor, size: tuple[int, int]) -> Tensor:
    """(…, 4) corners in pixels of an image (h, w) -> (…, 4) cxcywh in [0, 1] of it."""
    height, width = size
    return to_cxcywh(boxes_xyxy_abs / boxes_xyxy_abs.new_tensor([width, height, width, height]))


def to_absolute_xyxy(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """(…, 4) cxcywh in [0, 1] of an image (h, w) -> (…, 4) corners in its pixels."""
    height, width = size
    return to_xyxy(boxes) * boxes.new_tensor([width, height, width, height])


def inverse_sigmoid(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Logit of x in [0, 1]; both x and 1 - x are kept at or above `eps` (Deformable DETR's convention)."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=eps) / (1 - x).clamp(min=eps))


def generalized_iou(a_xyxy: Tensor, b_xyxy: Tensor, eps: float = 1e-7) -> Tensor:
    """GIoU in [-1, 1] of (…, 4) with (…, 4), shapes broadcast; a box without area gives a finite value."""
    inter, union = _inter_union(a_xyxy, b_xyxy)
    low = torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])
    high = torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    hull = (high - low).prod(-1)
    return inter / (union + eps) - (hull - union) / (hull + eps)


def iou(a_xyxy: Tensor, b_xyxy: Tensor, eps: float = 1e-7) -> Tensor:
    """IoU in [0, 1] of (…, 4) with (…, 4), shapes broadcast."""
    inter, union = _inter_union(a_xyxy, b_xyxy)
    return inter / (union + eps)


def _inter_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    inter = size.prod(-1)
    areas = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1)
    return inter, areas - inter
