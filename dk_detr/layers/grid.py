"""The cells of a pyramid of feature maps, as one sequence of tokens. S tokens, L levels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dk_detr.layers.cached import cached


@dataclass(frozen=True)
class Grid:
    """Where the tokens lie.

    Attributes:
        centers: (1, S, 2) centre (x, y) of each cell, in cells of its level: half numbers.
        level: (S,) the level of each token.
        sides: (1, L, 2) width and height of each level, in cells.
    """

    centers: Tensor
    level: Tensor
    sides: Tensor


@cached
def grid_of_cells(shapes: tuple[tuple[int, int], ...], device: torch.device) -> Grid:
    """The grid of levels (h, w), one after the other, each row by row; kept for the shapes that come again."""
    centers, level = [], []
    for number, (h, w) in enumerate(shapes):
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        centers.append(torch.stack([x, y], dim=-1).flatten(0, 1) + 0.5)
        level.append(torch.full((h * w,), number))
    sides = torch.tensor([[(w, h) for h, w in shapes]], dtype=torch.float32)
    return Grid(torch.cat(centers)[None].to(device), torch.cat(level).to(device), sides.to(device))
