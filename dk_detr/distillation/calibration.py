"""Calibration of a sigmoid to the teacher: what it should say "yes" to, and what "no".

All cosines of a teacher's embeddings are positive, and those with the right word or crop only a little higher. A
sigmoid without an offset forbids what such a teacher teaches: it wants negative cosines with all that is wrong.

N samples, K words or crops.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from dk_detr.structures import Calibration

PROBABILITY = 0.8  # of the median own cosine; of the median close wrong one it is 1 - 0.8
CLOSE = 0.03  # share of the wrong that is as alike as the close wrong: one of 36 words, 26 of LVIS's 866
FEWEST = 10  # samples
SHIFT, STRETCH = 0.1, 0.15  # of a box's sides, and of their logarithms, at most: an IoU of 0.79 in the mean


@dataclass(frozen=True)
class Cosines:
    """What a teacher's embeddings of N samples are like.

    Attributes:
        own: (N,) cosine with what is right. nearest_wrong: (N,) with the wrong that is most alike. wrong: all of them.
        close_wrong: (N,) with the last of the share `CLOSE` that is most alike. Among many words some are synonyms,
            which no teacher and no sigmoid can tell apart.
    """

    own: Tensor
    nearest_wrong: Tensor
    close_wrong: Tensor
    wrong: Tensor

    @classmethod
    def of(cls, cosines: Tensor, right: Tensor) -> "Cosines":
        """Of all pairs (N, K), K > 1, and which of the K is right (N,)."""
        is_right = torch.arange(cosines.shape[1], device=cosines.device) == right[:, None]
        number = max(1, round(CLOSE * (cosines.shape[1] - 1)))
        most_alike = cosines.masked_fill(is_right, -torch.inf).topk(number).values
        return cls(cosines[is_right], most_alike[:, 0], most_alike[:, -1], cosines[~is_right])

    @classmethod
    def joined(cls, parts: Sequence["Cosines"]) -> "Cosines":
        """All samples of these."""
        return cls(*(torch.cat([getattr(part, name) for part in parts] or [torch.zeros(0)]) for name in FIELDS))


FIELDS = ("own", "nearest_wrong", "close_wrong", "wrong")


def fit(own: Tensor, close_wrong: Tensor, what: str = "The sigmoid") -> Calibration:
    """The sigmoid that says 0.8 to the median own cosine, and 0.2 to the median close wrong one.

    Args:
        own, close_wrong: see `Cosines`. what: is calibrated, for errors.

    Raises: ValueError for too few samples, cosines that are no numbers, and own ones that are not above wrong ones.
    """
    if len(own) < FEWEST:
        raise ValueError(f"{what} cannot be calibrated: {len(own)} samples are too few, it takes {FEWEST}.")
    high, low = own.double().quantile(0.5).item(), close_wrong.double().quantile(0.5).item()
    if not (math.isfinite(high) and math.isfinite(low)):
        raise ValueError(f"{what} cannot be calibrated: the teacher's cosines are no numbers.")
    if high <= low:
        raise ValueError(
            f"{what} cannot be calibrated: the teacher's cosine with what is right ({high:.3f} in the median of "
            f"{len(own)} samples) is not above that with close wrong ones ({low:.3f}), so that it cannot tell them "
            "apart. Choose another MODEL.CLIP, or set temperature and offset by hand."
        )
    logit = math.log(PROBABILITY / (1 - PROBABILITY))
    return Calibration(temperature=(high - low) / (2 * logit), offset=(high + low) / 2)


def like_proposals(boxes: Tensor, generator: Generator) -> Tensor:
    """(N, 4) cxcywh boxes -> the same, shifted and stretched by chance, as proposals are: about IoU 0.8."""
    by = (torch.rand(boxes.shape, generator=generator) * 2 - 1).to(boxes)
    center, size = boxes.split(2, dim=1)
    return torch.cat([center + SHIFT * by[:, :2] * size, size * (STRETCH * by[:, 2:]).exp()], dim=1)
