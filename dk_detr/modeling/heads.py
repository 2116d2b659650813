"""Heads: from the hidden states of query groups to predictions, for every group in this one place.

D layers, B images, Q queries, C channels, K words, E text width.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dk_detr.modeling.classifiers import Classifier
from dk_detr.modeling.quality import BoxQuality
from dk_detr.modeling.queries import InitialQueries
from dk_detr.structures import DETECTION, Predictions, Trace


class PredictionsByGroup(Mapping[str, Predictions]):
    """Predictions of each query group of a trace, by its name.

    They are made when they are first asked for: a group that only a teacher supervises has no logits to pay for.
    """

    def __init__(self, heads: "Heads", trace: Trace, text: Tensor) -> None:
        self._heads, self._trace, self._text = heads, trace, text
        self._made: dict[str, Predictions] = {}

    def __getitem__(self, name: str) -> Predictions:
        if name not in self._made:
            group = self._trace.queries[name]
            hidden_states, boxes = self._trace.of(name)
            logits, rate = self._heads.classifier(hidden_states, self._text), self._heads.quality
            quality = None if rate is None else rate(hidden_states)
            self._made[name] = Predictions(logits, boxes, group.valid, quality)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return (group.name for group in self._trace.queries.groups)

    def __len__(self) -> int:
        return len(self._trace.queries.groups)


@dataclass(frozen=True)
class Heads:
    """What queries say. Boxes are the decoder's already: its next layer starts from them.

    Attributes:
        classifier: from hidden states to class logits. quality: to how well boxes fit; None where nobody says.
        quality_exponent: of the quality, which multiplies all scores.
    """

    classifier: Classifier
    quality: BoxQuality | None = None
    quality_exponent: float = 0.0

    def __call__(self, trace: Trace, text: Tensor) -> PredictionsByGroup:
        """Of every layer, for these words: text (K, E), unit rows."""
        return PredictionsByGroup(self, trace, text)

    def scores(
        self,
        trace: Trace,
        initial: InitialQueries,
        text: Tensor,
        train_text: Tensor,
        novel: Tensor,
        seen: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, K) in [0, 1] of the last layer's detections; 0 for queries that only fill up.

        Args:
            text: (K, E) of the words to detect. train_text: of those of training. novel: (K,) bool, not trained.
            seen: (B, Q, E) image embeddings of the boxes, by which novel words are scored; None for the queries' own.
        """
        hidden_states, _ = trace.of(DETECTION)
        scores = self.classifier.confidence(hidden_states[-1], text, train_text, novel, initial.objectness)
        if seen is not None:
            scores = torch.where(novel, self.classifier.confidence_of(seen, text, novel, initial.objectness), scores)
        if self.quality is not None and self.quality_exponent:
            quality = self.quality.of_layer(hidden_states[-1], -1).sigmoid()
            scores = scores * quality[..., None] ** self.quality_exponent
        valid = initial.group.valid
        return scores if valid is None else scores.masked_fill(~valid[..., None], 0.0)

    def image_embeddings(self, hidden_states: Tensor, layer: int) -> Tensor:
        """(…, C) hidden states of a layer -> (…, E) in the space of CLIP's image embeddings, not normalised."""
        return self.classifier.project_image(hidden_states, layer)
