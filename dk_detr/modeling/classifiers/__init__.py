"""Classifiers: from query features to what a query is."""

from dk_detr.modeling.classifiers.classifier import Classifier
from dk_detr.modeling.classifiers.cosine_text import CosineText
from dk_detr.modeling.classifiers.linear import Linear, LinearBackground
from dk_detr.modeling.classifiers.scores import ensemble, with_background, with_objectness, without_background
from dk_detr.modeling.classifiers.vild import CosineTextBackground, CosineTextEnsemble, CosineTextObjectness

CLASSIFIERS: dict[str, type[CosineText] | type[Linear]] = {
    "CosineText": CosineText,
    "Linear": Linear,
    "LinearBackground": LinearBackground,
    "CosineTextBackground": CosineTextBackground,
    "CosineTextObjectness": CosineTextObjectness,
    "CosineTextEnsemble": CosineTextEnsemble,
}
"""By their name in MODEL.DETR.CLASSIFIER.NAME."""

__all__ = [
    "CLASSIFIERS", "Classifier", "CosineText", "CosineTextBackground", "CosineTextEnsemble", "CosineTextObjectness",
    "Linear", "LinearBackground", "ensemble", "with_background", "with_objectness", "without_background",
]  # fmt: skip
