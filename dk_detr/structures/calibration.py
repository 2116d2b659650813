"""Calibration: what makes logits of cosines."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Calibration:
    """A sigmoid of cosines: logit = (cosine - offset) / temperature. The defaults are DK-DETR's (eq. 1 and 4).

    Attributes:
        temperature: above 0. offset: the cosine of probability 0.5.

    Raises: ValueError for other numbers.
    """

    temperature: float = 0.05
    offset: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0 and math.isfinite(self.offset)):
            raise ValueError(f"A sigmoid needs a finite offset and a temperature above 0, got {self}.")

    def logits(self, cosines: Tensor) -> Tensor:
        """Cosines of any shape -> their logits."""
        return (cosines - self.offset) / self.temperature

    def __str__(self) -> str:
        return f"temperature {self.temperature:.4g}, offset {self.offset:.4g}"
