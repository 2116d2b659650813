"""Sine codes of places: of the cells of feature maps, and of boxes. B images, C channels."""

import math

import torch
from torch import Tensor


def sine_code(x: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """(…) values, 1 the whole image -> (…, width): sines and cosines of 2π·x at `width`/2 frequencies, interleaved."""
    # Integer arithmetic first: the frequencies of a sine and its cosine must be the same to the last bit.
    index = 2 * (torch.arange(width, device=x.device) // 2) / width
    angles = (2 * math.pi) * x.float()[..., None] / temperature**index
    return torch.stack([angles[..., 0::2].sin(), angles[..., 1::2].cos()], dim=-1).flatten(-2)


def sine_position_of_cells(
    shape: tuple[int, int], valid: Tensor | None, offset: Tensor, temperature: float = 10000.0, first: float = 0.5
) -> Tensor:
    """Position code of each cell of a map, relative to the valid part.

    Args:
        shape: (h, w) of the map. valid: (B, 2) cells (x, y) of the image; None for all.
        offset: (C,) added to all codes, such as the embedding of the level; the first half of C codes y, the second x.
        first: place of the first cell in cells: 0.5, its centre (Deformable DETR), or 1.0, its end (DETR).

    Returns: (B, h·w, C), or (1, h·w, C) where `valid` is None. Source: DETR.
    """
    h, w = shape
    extent = torch.tensor([[w, h]], device=offset.device) if valid is None else valid
    x = (torch.arange(w, device=extent.device) + first) / extent[:, :1]
    y = (torch.arange(h, device=extent.device) + first) / extent[:, 1:]
    offset_y, offset_x = offset.chunk(2)
    # Rows and columns are coded, and shifted, before they are spread over the map: h + w codes instead of h·w.
    code_x = (sine_code(x, len(offset_x), temperature) + offset_x)[:, None].expand(-1, h, -1, -1)
    code_y = (sine_code(y, len(offset_y), temperature) + offset_y)[:, :, None].expand(-1, -1, w, -1)
    return torch.cat([code_y, code_x], dim=-1).flatten(1, 2)


def sine_position_of_boxes(boxes: Tensor, width: int, temperature: float = 10000.0) -> Tensor:
    """(…, 4) cxcywh in [0, 1] -> (…, 4·width), the codes of cx, cy, w, h in this order. Source: Deformable DETR."""
    return sine_code(boxes, width, temperature).flatten(-2)
