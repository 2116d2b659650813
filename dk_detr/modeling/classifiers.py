"""Classifiers: from query features to class logits.

D layers, B images, Q queries, C channels, K classes, E text width.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.structures import Vocabulary


class Classifier(nn.Module, ABC):
    """What classifiers share: features are projected, and the projected are scored against words.

    Args:
        channels: C. width: E, that of the words. num_projections: D, one for each decoder layer; or 1, for all of them.
    """

    def __init__(self, channels: int, width: int, num_projections: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.ModuleList(nn.Linear(channels, width) for _ in range(num_projections))

    def forward(self, hidden: Tensor, text: Tensor) -> Tensor:
        """(D, B, Q, C) features and (K, E) unit text rows -> (D, B, Q, K) logits."""
        return self.score(torch.stack([self.project(x, layer) for layer, x in enumerate(hidden)]), text)

    def project(self, hidden: Tensor, layer: int) -> Tensor:
        """(…, C) features of a layer (-1: the last) -> (…, E) in the space of the text, not normalised."""
        return self.projections[layer % len(self.projections)](hidden)

    @abstractmethod
    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """(…, E) -> (…, K) logits, in full precision."""

    @abstractmethod
    def check(self, vocabulary: Vocabulary) -> None:
        """Raises ValueError if these words are not for this classifier."""


class CosineText(Classifier):
    """Cosine similarity of projected features with text embeddings, over a temperature, for a sigmoid.

    Args:
        channels, width, num_projections: see `Classifier`.
        temperature: of the cosine, 0.05 in DK-DETR.
        logit_bias: a fixed number added to all logits; None (the paper) for none.

    Source: DK-DETR (ICCV 2023), eq. 1 and 2.
    """

    @configurable
    def __init__(
        self,
        channels: int,
        width: int,
        num_projections: int,
        temperature: float = 0.05,
        logit_bias: float | None = None,
    ) -> None:
        super().__init__(channels, width, num_projections)
        self.temperature, self.logit_bias = temperature, logit_bias

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int, num_projections: int) -> dict[str, Any]:
        settings = cfg.MODEL.DETR.CLASSIFIER
        sizes = {"channels": cfg.MODEL.DETR.CHANNELS, "width": width, "num_projections": num_projections}
        return {**sizes, "temperature": settings.TEMPERATURE, "logit_bias": settings.LOGIT_BIAS}

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`. At this temperature half floats would round a logit by 0.01."""
        with torch.autocast(projected.device.type, enabled=False):
            logits = F.linear(F.normalize(projected.float(), dim=-1), text.float()) / self.temperature
        return logits if self.logit_bias is None else logits + self.logit_bias

    def check(self, vocabulary: Vocabulary) -> None:
        """See `Classifier`."""
        if vocabulary.width != self.width:
            raise ValueError(
                f"This detector compares with text embeddings of width {self.width}; the vocabulary "
                f"({vocabulary.describe()}) comes from another text encoder. Rebuild it with the detector's MODEL.CLIP."
            )


class Linear(Classifier):
    """A logit of its own for each of the words of training: a closed detector.

    Its words are axes, unit vectors of width K, so that a selection of words is a selection of logits.

    Args:
        channels: C. width: K. num_projections: see `Classifier`.

    Source: Deformable DETR (ICLR 2021); a new classifier expects one object in a hundred queries (RetinaNet).
    """

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
                f'This detector knows the {self.width} words of its training (MODEL.DETR.CLASSIFIER.NAME "Linear") and '
                f"no others; the vocabulary ({vocabulary.describe()}) is not of them. Select among its own words, or "
                'train with "CosineText".'
            )


CLASSIFIERS: dict[str, type[CosineText] | type[Linear]] = {"CosineText": CosineText, "Linear": Linear}
"""By their name in MODEL.DETR.CLASSIFIER.NAME."""
