"""Seen: what a network makes of crops. B crops, C channels, E width of embeddings, K words."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """
    Attributes:
        embeddings: (B, E), not normalised. logits: (B, K) of the words of training.
        of_cells: number of cells a side, d -> (B, d², K), each cell of the map seen alone; None where there is no map.
    """

    embeddings: Tensor
    logits: Tensor
    of_cells: Callable[[int], Tensor] | None
