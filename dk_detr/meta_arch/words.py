"""Which words a detector was trained for. K words."""

import torch
from torch import Tensor

from dk_detr.language import readable
from dk_detr.structures import Vocabulary


def untrained(vocabulary: Vocabulary, train_vocabulary: Vocabulary) -> Tensor:
    """(K,) bool, words that are not among those of training, however they are spelt.

    Words of one's own come without a word on novelty, and other data sets call other words novel.
    """
    trained = set(map(readable, train_vocabulary.names))
    return torch.tensor([readable(name) not in trained for name in vocabulary.names])
