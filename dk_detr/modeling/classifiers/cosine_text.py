"""CosineText: similarity with text embeddings, for any words. K classes, E text width."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from dk_detr.modeling.classifiers.classifier import Classifier
from dk_detr.structures import Calibration, Vocabulary, require_words


class CosineText(Classifier):
    """Cosine similarity of projected features with text embeddings, over a temperature, for a sigmoid.

    Args:
        channels, width, num_projections: see `Classifier`.
        temperature: of the cosine, 0.05 in DK-DETR.
        logit_bias: a fixed number added to all logits; None (the paper) for none.
        calibration: in place of both; None (the paper) for none.
        novel_objectness, base_objectness: exponents of the first stage's objectness in the scores of novel and of base
            words; 0 (the paper) for none.
        word_share: exponent of a word's share in a softmax over the words to detect; 0 (the paper) for none.

    Attributes:
        calibration: (2,) temperature and offset, or None. A buffer: weights bring the numbers that they were trained
            with, and a classifier without any takes them.
        exponents: keys of MODEL.DETR.CLASSIFIER for its scores.

    Source: DK-DETR (ICCV 2023), eq. 1 and 2.
    """

    activation = "sigmoid"
    exponents = ("NOVEL_OBJECTNESS", "BASE_OBJECTNESS", "WORD_SHARE")

    @configurable
    def __init__(
        self,
        channels: int,
        width: int,
        num_projections: int,
        temperature: float = 0.05,
        logit_bias: float | None = None,
        novel_objectness: float = 0.0,
        base_objectness: float = 0.0,
        word_share: float = 0.0,
        calibration: Calibration | None = None,
    ) -> None:
        super().__init__(channels, width, num_projections)
        self.temperature, self.logit_bias = temperature, logit_bias
        self.novel_objectness, self.base_objectness, self.word_share = novel_objectness, base_objectness, word_share
        numbers = None if calibration is None else torch.tensor([calibration.temperature, calibration.offset])
        self.register_buffer("calibration", numbers)

    calibration: Tensor | None

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int, num_projections: int) -> dict[str, Any]:
        """`calibration` is given beside the config: it is read where the teacher is known."""
        settings = cfg.MODEL.DETR.CLASSIFIER
        sizes = {"channels": cfg.MODEL.DETR.CHANNELS, "width": width, "num_projections": num_projections}
        numbers = {"temperature": settings.TEMPERATURE, "logit_bias": settings.LOGIT_BIAS}
        exponents = {key.lower(): settings[key] for key in cls.exponents}
        return {**sizes, **numbers, **exponents}

    @property
    def tells_novel(self) -> bool:
        """See `Classifier`."""
        return self.novel_objectness != self.base_objectness

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`. At this temperature half floats would round a logit by 0.01."""
        with torch.autocast(projected.device.type, enabled=False):
            cosines = F.linear(F.normalize(projected.float(), dim=-1), text.float())
            if self.calibration is not None:
                temperature, offset = self.calibration.float()
                return (cosines - offset) / temperature
            logits = cosines / self.temperature
        return logits if self.logit_bias is None else logits + self.logit_bias

    def confidence_of(self, projected: Tensor, text: Tensor, novel: Tensor, objectness: Tensor | None) -> Tensor:
        """See `Classifier`. Where no label said what is no object, the first stage helps to tell; and where no label
        said that an object is no star, the word that fits it better says so."""
        logits = self.score(projected, text).float()
        scores = logits.sigmoid()
        if self.word_share:
            scores = scores * logits.softmax(-1) ** self.word_share
        if objectness is not None and (self.novel_objectness or self.base_objectness):
            exponent = torch.where(novel, self.novel_objectness, self.base_objectness)
            scores = scores * objectness.float().sigmoid()[..., None] ** exponent
        return scores

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """Weights with a calibration bring its place along; a softmax has none."""
        theirs = state_dict.get(f"{prefix}calibration")
        if theirs is not None and self.calibration is None and self.activation == "sigmoid":
            self.calibration = theirs.new_ones(2, dtype=torch.float32, device=next(self.parameters()).device)
        super()._load_from_state_dict(state_dict, prefix, *others)

    def check(self, vocabulary: Vocabulary) -> None:
        """See `Classifier`."""
        require_words(vocabulary.names)
        if vocabulary.width != self.width:
            raise ValueError(
                f"This detector compares with text embeddings of width {self.width}; the vocabulary "
                f"({vocabulary.describe()}) comes from another text encoder. Rebuild it with the detector's MODEL.CLIP."
            )
