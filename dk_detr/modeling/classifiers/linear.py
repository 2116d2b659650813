"""Linear: a closed list of words, for a sigmoid, or with "no object" for a softmax. C channels, K classes."""

import math
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling.classifiers.classifier import Classifier
from dk_detr.modeling.classifiers.scores import with_background
from dk_detr.structures import Vocabulary


class Linear(Classifier):
    """A logit of its own for each of the words of training: a closed detector.

    Its words are axes, unit vectors of width K, so that a selection of words is a selection of logits.

    Args:
        channels: C. width: K. num_projections: see `Classifier`.

    Source: Deformable DETR (ICLR 2021); a new classifier expects one object in a hundred queries (RetinaNet).
    """

    activation = "sigmoid"

    @configurable
    def __init__(self, channels: int, width: int, num_projections: int) -> None:
        super().__init__(channels, width, num_projections)
        for projection in self.projections:
            nn.init.constant_(projection.bias, -math.log(99))  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int, num_projections: int) -> dict[str, Any]:
        return {"channels": cfg.MODEL.DETR.CHANNELS, "width": width, "num_projections": num_projections}

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`."""
        return projected.float().index_select(-1, text.argmax(1))

    def check(self, vocabulary: Vocabulary) -> None:
        """See `Classifier`."""
        rows = vocabulary.embeddings
        axes = F.one_hot(rows.argmax(1), rows.shape[1]).to(rows.dtype)
        if vocabulary.width != self.width or not torch.equal(rows, axes):
            raise ValueError(
                f"This detector knows the {self.width} words of its training (MODEL.DETR.CLASSIFIER.NAME "
                f'"{type(self).__name__}") and no others; the vocabulary ({vocabulary.describe()}) is not of them. '
                'Select among its own words, or train with "CosineText".'
            )


class LinearBackground(Linear):
    """The same with a last logit for no object: words and nothing exclude one another.

    Source: DETR (ECCV 2020).
    """

    activation = "softmax"

    @configurable
    def __init__(self, channels: int, width: int, num_projections: int) -> None:
        super().__init__(channels, width, num_projections)
        self.projections = nn.ModuleList(nn.Linear(channels, width + 1) for _ in range(num_projections))

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`."""
        words, nothing = projected.float().split([self.width, 1], dim=-1)
        return torch.cat([super().score(words, text), nothing], dim=-1)

    def confidence(
        self, hidden_states: Tensor, text: Tensor, train_text: Tensor, novel: Tensor, objectness: Tensor | None
    ) -> Tensor:
        """See `Classifier`: the share of each word in a softmax over no object and all words that were trained, asked
        for or not; of a query, that of the best word alone, as DETR has it."""
        logits = self.project(hidden_states, -1).float()
        untrained = F.pad(train_text.sum(0) == 0, (0, 1))
        scores = with_background(logits.masked_fill(untrained, -torch.inf)).exp()
        best = torch.where(scores == scores.amax(-1, keepdim=True), scores, 0.0)
        return best.index_select(-1, text.argmax(1))
