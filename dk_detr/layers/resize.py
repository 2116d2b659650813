"""Bilinear resizing of maps (N, h, w) that keeps the corners in place, as SOIT does all of its resizing."""

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, h, w) -> (N, *size): the first and the last pixel stay the first and the last (`align_corners`)."""
    if not torch.compiler.is_exporting() and tuple(maps.shape[-2:]) == tuple(size):  # a graph is for any size
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]


def aligned_upsample(maps: Tensor, factor: int) -> Tensor:
    """(N, h, w) -> (N, factor·h, factor·w): pixel i of the map lies at factor·i + factor/2.

    Source: `aligned_bilinear` of CondInst (ECCV 2020).
    """
    h, w = maps.shape[-2:]
    half = factor // 2
    wider = F.pad(maps[:, None], (0, 1, 0, 1), mode="replicate")
    fine = F.interpolate(wider, size=(factor * h + 1, factor * w + 1), mode="bilinear", align_corners=True)
    moved = F.pad(fine, (half, 0, half, 0), mode="replicate")
    return moved[:, 0, : factor * h, : factor * w]
