"""What classifiers share. D layers, B images, Q queries, C channels, K classes, E text width."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dk_detr.structures import Vocabulary


class Classifier(nn.Module, ABC):
    """Features are projected, and the projected are scored against words.

    Args:
        channels: C. width: E, that of the words. num_projections: D, one for each decoder layer; or 1, for all of them.

    Attributes:
        activation: what makes probabilities of the logits. "sigmoid": yes or no for each word; "softmax": words and a
            last column, "no object"; "none": labels do not train them, and they do not tell an object from nothing.
        learns_image_embeddings: whether it keeps projections for images apart from those for words.
    """

    activation: str
    learns_image_embeddings = False

    def __init__(self, channels: int, width: int, num_projections: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleList(nn.Linear(channels, width) for _ in range(num_projections))

    def forward(self, hidden_states: Tensor, text: Tensor) -> Tensor:
        """(D, B, Q, C) features and (K, E) unit text rows -> (D, B, Q, K) logits; K + 1 for a softmax."""
        return self.score(torch.stack([self.project(x, layer) for layer, x in enumerate(hidden_states)]), text)

    def project(self, hidden_states: Tensor, layer: int) -> Tensor:
        """(…, C) features of a layer (-1: the last) -> (…, E) in the space of the text, not normalised."""
        return self.projections[layer % len(self.projections)](hidden_states)

    def project_image(self, hidden_states: Tensor, layer: int) -> Tensor:
        """The same in the space of image embeddings: CLIP has one space for both, and so has one projection."""
        return self.project(hidden_states, layer)

    @property
    def tells_novel(self) -> bool:
        """Whether scores depend on which words are novel."""
        return False

    @abstractmethod
    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """(…, E) -> (…, K) logits, or K + 1 for a softmax, in full precision."""

    def confidence(
        self, hidden_states: Tensor, text: Tensor, train_text: Tensor, novel: Tensor, objectness: Tensor | None
    ) -> Tensor:
        """How sure it is of each query and word.

        Args:
            hidden_states: (B, Q, C) of the last layer. text: (K, E) of the words that are asked for. train_text: of all
                words of training. novel: (K,) bool, words that were not trained.
            objectness: (B, Q) logits of the first stage; None where there is none.

        Returns: (B, Q, K) in [0, 1].
        """
        return self.confidence_of(self.project(hidden_states, -1), text, novel, objectness)

    def confidence_of(self, projected: Tensor, text: Tensor, novel: Tensor, objectness: Tensor | None) -> Tensor:
        """The same of (B, Q, E) rows in the space of the text."""
        return self.score(projected, text).float().sigmoid()

    @abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError if these words are not for this classifier."""
