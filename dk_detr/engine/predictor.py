"""A trained detector for single pictures: from a file or an array to the detections in its own pixels."""

from __future__ import annotations

import os
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import detection_utils as utils
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image

from dk_detr.engine.checkpoint import SafeCheckpointer
from dk_detr.engine.setup import without_distillation
from dk_detr.structures import Vocabulary


class UnreadableImage(ValueError):
    """An image file that is absent, truncated, or no image."""


class Predictor:
    """Loads a detector once and runs it on one picture at a time, resized as in evaluation.

    The teacher is not built: it has no part in detection.

    Args:
        cfg: the config that the weights were trained with; MODEL.WEIGHTS names them.
        vocabulary: the words to detect; None for the config's own, MODEL.VOCABULARY.TEST.

    Raises: ValueError for missing weights, or weights or a vocabulary that do not fit; FileNotFoundError.
    """

    def __init__(self, cfg: CfgNode, vocabulary: Vocabulary | None = None) -> None:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError("MODEL.WEIGHTS is empty: add `MODEL.WEIGHTS some.pth`, the weights of a trained detector.")
        self.model: Any = build_model(without_distillation(cfg)).eval()
        SafeCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self._format = cfg.INPUT.FORMAT
        self._augmentations = T.AugmentationList(utils.build_augmentation(cfg, is_train=False))
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    @property
    def vocabulary(self) -> Vocabulary:
        """The words that `pred_classes` index."""
        return self.model.vocabulary  # type: ignore[no-any-return]

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Detect these words from now on."""
        self.model.set_vocabulary(vocabulary)

    @torch.no_grad()
    def __call__(self, image: str | os.PathLike[str] | np.ndarray) -> Instances:
        """Detect.

        Args:
            image: a file, or a uint8 array (H, W, 3) in BGR, as OpenCV reads it and Detectron2's predictor takes it.

        Returns: pred_boxes (xyxy in pixels of the image), scores (descending), pred_classes; on the CPU.
        Raises: UnreadableImage; ValueError for an array of another shape or type.
        """
        bgr = _checked(image) if isinstance(image, np.ndarray) else read_image(image, "BGR")
        height, width = bgr.shape[:2]
        resized = T.AugInput(bgr[:, :, ::-1] if self._format == "RGB" else bgr)
        self._augmentations(resized)
        pixels = torch.as_tensor(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        output = self.model([{"image": pixels, "height": height, "width": width}])[0]
        return output["instances"].to("cpu")


def read_image(path: str | os.PathLike[str], order: str = "RGB") -> np.ndarray:
    """An image file as (H, W, 3) uint8 in "RGB" or "BGR", turned as its EXIF says. Raises UnreadableImage."""
    try:
        return utils.read_image(os.fspath(path), format=order)
    except FileNotFoundError as error:
        raise UnreadableImage(f"Image {path} is not there.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises
        raise UnreadableImage(f"Image {path} cannot be read ({error}).") from error


def _checked(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise ValueError(f"An image is a uint8 array (H, W, 3), not {image.dtype} {image.shape}.")
    return image
