"""The four forms of ViLD: what each learns, and how it scores words. N regions, K words."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """What a form is made of.

    Attributes:
        learns_labels: a softmax over base words and background.
        learns_images: the teacher's embeddings of regions.
        num_heads: 1, or 2 where each of them has a head of its own.
    """

    learns_labels: bool
    learns_images: bool
    num_heads: int = 1


FORMS = {
    "ViLD-text": Form(True, False),
    "ViLD-image": Form(False, True),
    "ViLD": Form(True, True),
    "ViLD-ensemble": Form(True, True, num_heads=2),
}
"""By their name in MODEL.VILD.FORM."""


def with_background(logits: Tensor) -> Tensor:
    """(N, K + 1) logits, background last -> (N, K) log-probabilities of the words."""
    return logits.log_softmax(1)[:, :-1]


def without_background(logits: Tensor) -> Tensor:
    """(N, K) logits -> (N, K) log-probabilities that sum to 1: what is there, if anything is."""
    return logits.log_softmax(1)


def ensemble(log_text: Tensor, log_image: Tensor, novel: Tensor, home_weight: float) -> Tensor:
    """The geometric mean of both heads: p_text^λ · p_image^(1-λ) for base words, and the reverse for novel ones.

    Args:
        log_text, log_image: (N, K) log-probabilities. novel: (K,) bool. home_weight: λ.

    Returns: (N, K) log-scores. Source: ViLD (ICLR 2022), eq. 5.
    """
    of_text = torch.where(novel, 1 - home_weight, home_weight)
    return of_text * log_text + (1 - of_text) * log_image


def with_objectness(log_image: Tensor, objectness: Tensor) -> Tensor:
    """The geometric mean of what is there and whether anything is: all that ViLD-image can say, having no background.

    Args:
        log_image: (N, K) log-probabilities. objectness: (N,) logits of the first stage.

    Returns: (N, K) log-scores. Source: ViLD scores crops by CLIP so; of ViLD-image it does not say how.
    """
    return (log_image + torch.nn.functional.logsigmoid(objectness)[:, None]) / 2
