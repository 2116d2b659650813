"""A trained detector for pictures: from a file or an array to the detections in its own pixels."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from dk_detr.data.images import UnreadableImage, pixels_of, read_image, to_tensor
from dk_detr.data.resizing import evaluation_resize
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.fit import needs_weights, no_weights
from dk_detr.engine.fusion import with_clip
from dk_detr.engine.setup import for_inference, with_values
from dk_detr.language import WORD_LISTS, is_closed, words_of_checkpoint
from dk_detr.structures import Vocabulary

__all__ = ["Picture", "Predictor", "UnreadableImage", "as_bgr", "read_image", "with_words_of_training"]

logger = logging.getLogger(__name__)

Picture = str | os.PathLike[str] | np.ndarray | Image.Image


class Predictor:
    """Loads a detector once and runs it on pictures, resized as in evaluation.

    The teacher is not built: it has no part in detection.

    Args:
        cfg: the config that the weights were trained with; MODEL.WEIGHTS names them.
        vocabulary: the words to detect. None for the config's own, MODEL.VOCABULARY.TEST, or, where that is empty, for
            those of the training of the weights. Words and weights are enough: with words, the file that
            MODEL.VOCABULARY.TEST names need not be there (see `with_words_of_training`).

    Raises: ValueError for missing weights, or weights or a vocabulary that do not fit; FileNotFoundError.
    """

    def __init__(self, cfg: CfgNode, vocabulary: Vocabulary | None = None) -> None:
        if not cfg.MODEL.WEIGHTS and needs_weights(cfg):
            raise ValueError("MODEL.WEIGHTS is empty: add `MODEL.WEIGHTS some.pth`, the weights of a trained detector.")
        if cfg.MODEL.WEIGHTS and (vocabulary is not None or not cfg.MODEL.VOCABULARY.TEST):
            cfg = with_words_of_training(cfg)
        self.model: Any = build_model(for_inference(cfg)).eval()
        if cfg.MODEL.WEIGHTS:
            StrictCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self._format, self._asked = cfg.INPUT.FORMAT, with_clip(cfg, self.model, self.model)
        self._resize = evaluation_resize(cfg)
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that `pred_classes` index."""
        return self.model.vocabulary  # type: ignore[no-any-return]

    @property
    def fuses(self) -> bool:
        """Whether CLIP has a say in the scores, as MODEL.TEST_FUSION says."""
        return self._asked is not self.model

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect these words from now on; novel are those that were not trained, whatever the vocabulary says."""
        self.model.set_vocabulary(replace(vocabulary, novel=self.model.is_novel(vocabulary).cpu()))

    def __call__(self, image: Picture) -> Instances:
        """Detect.

        Args:
            image: a file; an image of Pillow's, of any mode; or a uint8 array (H, W, 3) in **BGR**, as OpenCV reads it
                and Detectron2's predictor takes it. Files and Pillow's images are turned as their EXIF says.

        Returns: pred_boxes (xyxy in pixels of the image, once it is turned), scores (descending), pred_classes; on the
            CPU.
        Raises: UnreadableImage; TypeError for anything else; ValueError for an array of another shape or type.
        """
        return self.together([image])[0]

    @torch.no_grad()
    def together(self, images: Sequence[Picture], least_score: float = 0.0) -> list[Instances]:
        """The same of several pictures in one batch, padded to the largest.

        Args:
            least_score: what scores less is not wanted, and masks of it are not drawn where that is known in time.
        """
        before, self.model.least_score = self.model.least_score, 0.0 if self.fuses else least_score
        try:
            outputs = self._asked([self.sample_of(image) for image in images])
        finally:
            self.model.least_score = before
        return [_at_least(least_score, output["instances"]).to("cpu") for output in outputs]

    def sample_of(self, image: Picture) -> dict[str, Any]:
        """What the detector is given of a picture: "image" (3, h, w) as the network takes it, and the "height" and
        "width" of the picture, in whose pixels detections are wanted."""
        bgr = as_bgr(image)
        height, width = bgr.shape[:2]
        resized = T.AugInput(bgr[:, :, ::-1] if self._format == "RGB" else bgr)
        self._resize(resized)
        return {"image": to_tensor(resized.image), "height": height, "width": width}


def _at_least(score: float, found: Instances) -> Instances:
    """Those that count; not copied where all do."""
    counts = found.scores >= score
    return found if bool(counts.all()) else found[counts]


def with_words_of_training(cfg: CfgNode) -> CfgNode:
    """A config to build a detector from without a vocabulary file: where MODEL.VOCABULARY.TEST is empty, or a file that
    is not there, the words are those of the training of MODEL.WEIGHTS, as the weights say them. Else the same config.

    Raises: ValueError for weights that do not say them; FileNotFoundError for weights that are not there.
    """
    named, weights = cfg.MODEL.VOCABULARY.TEST, cfg.MODEL.WEIGHTS
    if (named and os.path.isfile(named)) or (is_closed(cfg) and named in WORD_LISTS):
        return cfg
    what = f"there is no vocabulary {named}" if named else "no vocabulary is named"
    if not weights and not needs_weights(cfg):
        return cfg
    if "://" not in weights and not os.path.isfile(weights):
        raise no_weights(weights)
    if "://" in weights or words_of_checkpoint(weights) is None:
        raise ValueError(
            f"{weights} (MODEL.WEIGHTS) does not say which words it was trained with, and {what}: name the vocabulary "
            "file of its training, MODEL.VOCABULARY.TEST some.npz."
        )
    logger.info(f"MODEL.VOCABULARY.TEST: {what}; the words of training are those that {weights} says.")
    return with_values(cfg, {"MODEL.VOCABULARY.TEST": weights, "MODEL.VOCABULARY.TRAIN": ""})


def as_bgr(image: Picture) -> np.ndarray:
    """(H, W, 3) uint8 in BGR of what `Predictor` takes."""
    if isinstance(image, np.ndarray):
        return _checked(image)
    if isinstance(image, Image.Image):
        return pixels_of(image, "BGR")
    if isinstance(image, str | os.PathLike):
        return read_image(image, "BGR")
    raise TypeError(
        "A picture is a file name, an image of Pillow's or a uint8 array (H, W, 3) in BGR, not "
        f"{type(image).__module__}.{type(image).__qualname__}."
    )


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"A picture is a uint8 array (H, W, 3), not {image.dtype} {image.shape}.")
    return image
