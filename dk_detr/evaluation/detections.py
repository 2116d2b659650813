"""Detections of a whole data set as columns, and what may be kept of them. N detections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dk_detr.evaluation import geometry


@dataclass(frozen=True)
class Detections:
    """What was found.

    Attributes:
        image, category: (N,) indices of the ground truth's. score: (N,) float64. boxes_or_masks: see `geometry.py`.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    boxes_or_masks: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def area(self) -> np.ndarray:
        """(N,) pixels."""
        return geometry.areas(self.boxes_or_masks)

    def take(self, chosen: np.ndarray) -> Detections:
        """Some of them, or all in another order: indices or a mask."""
        return Detections(self.image[chosen], self.category[chosen], self.score[chosen], self.boxes_or_masks[chosen])

    def best_of(self, group: np.ndarray, count: int) -> Detections:
        """At most `count` of each group, the best scores; of equal scores the first. In the order given.

        Args:
            group: (N,) integers.
        """
        order = np.lexsort((-self.score, group))
        first = np.searchsorted(group[order], group[order])
        keep = np.zeros(len(self), dtype=bool)
        keep[order[np.arange(len(self)) - first < count]] = True
        return self if keep.all() else self.take(keep)
