"""Scores from logits: softmax with or without background, ViLD's ensemble, objectness. K words; all are logarithms."""

import torch
from torch import Tensor
from torch.nn import functional as F


def with_background(logits: Tensor) -> Tensor:
    """(…, K + 1) logits, background last -> (…, K) log-probabilities of the words."""
    return logits.log_softmax(-1)[..., :-1]


def without_background(logits: Tensor) -> Tensor:
    """(…, K) logits -> (…, K) log-probabilities that sum to 1: what is there, if anything is."""
    return logits.log_softmax(-1)


def ensemble(log_text: Tensor, log_image: Tensor, novel: Tensor, home_weight: float) -> Tensor:
    """The geometric mean of both: p_text^λ · p_image^(1-λ) for base words, and the reverse for novel ones.

    Args:
        log_text, log_image: (…, K) log-probabilities. novel: (K,) bool. home_weight: λ.

    Returns: (…, K) log-scores. Source: ViLD (ICLR 2022), eq. 5.
    """
    of_text = torch.where(novel, 1 - home_weight, home_weight)
    return of_text * log_text + (1 - of_text) * log_image


def with_objectness(log_image: Tensor, objectness: Tensor) -> Tensor:
    """The geometric mean of each word's share and the objectness: without a background class, the first stage says
    whether there is an object.

    Args:
        log_image: (…, K) log-probabilities. objectness: (…) logits of the first stage.

    Returns: (…, K) log-scores. Source: ViLD scores crops by CLIP so; of ViLD-image it does not say how.
    """
    return (log_image + F.logsigmoid(objectness)[..., None]) / 2
