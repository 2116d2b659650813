"""The words of a detector: those that it was trained for, and those that it detects. K words."""

from typing import Any

import torch
from torch import Tensor, nn

from dk_detr.language import readable
from dk_detr.structures import Vocabulary


class OfWords(nn.Module):
    """What detectors of any words share.

    Words are not learnt: checkpoints are free of them, and any vocabulary of the same encoder fits.

    Attributes:
        train_vocabulary: base words. vocabulary: the words to detect. train_text, text: their embeddings, on the
            device. novel: (K,) bool, of the words to detect.
    """

    train_vocabulary: Vocabulary
    vocabulary: Vocabulary
    train_text: Tensor
    text: Tensor
    novel: Tensor

    @property
    def words_classifier(self) -> Any:
        """What says whether words are for this detector: `check(vocabulary)`."""
        return self.classifier

    def register_words(self, train_vocabulary: Vocabulary, vocabulary: Vocabulary) -> None:
        """To be called once, when the classifier is there."""
        self.train_vocabulary = train_vocabulary
        self.register_buffer("train_text", train_vocabulary.embeddings, persistent=False)
        self.register_buffer("text", vocabulary.embeddings, persistent=False)
        self.register_buffer("novel", vocabulary.novel, persistent=False)
        self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect these words from now on: known or new ones, in any order. Raises ValueError if they are not for the
        classifier."""
        self.words_classifier.check(vocabulary)
        self.vocabulary = vocabulary
        self.text = vocabulary.embeddings.to(self.text.device)
        self.novel = self.is_novel(vocabulary).to(self.text.device)

    def is_novel(self, vocabulary: Vocabulary) -> Tensor:
        """(K,) bool: what was not trained, whatever the vocabulary says."""
        return untrained(vocabulary, self.train_vocabulary)


def untrained(vocabulary: Vocabulary, train_vocabulary: Vocabulary) -> Tensor:
    """(K,) bool, words that are not among those of training, however they are spelt.

    Words of one's own come without a word on novelty, and other data sets call other words novel.
    """
    trained = set(map(readable, train_vocabulary.names))
    return torch.tensor([readable(name) not in trained for name in vocabulary.names])
