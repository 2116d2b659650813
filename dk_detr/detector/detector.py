"""Detector: a trained detector for people who want to use it, and need not know Detectron2."""

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from PIL import Image
from tqdm import tqdm

from dk_detr.data.image_files import find_images
from dk_detr.data.images import UnreadableImage, pixels_of, read_image
from dk_detr.detector.detections import Detections
from dk_detr.detector.words import VOCABULARY_ENDINGS, words_for
from dk_detr.engine.predictor import Picture, Predictor, as_bgr
from dk_detr.language import WORD_LISTS, Clip, clip_from_config, read_vocabulary
from dk_detr.structures import Vocabulary
from dk_detr.utils.batches import batches_of

logger = logging.getLogger(__name__)

THRESHOLD = 0.3
GPU_BATCH = 8  # images; on a CPU one at a time is as fast


class Detector:
    """Detects any words in images. One object may be used by several threads: they take turns.

    Args:
        cfg: of the training; MODEL.WEIGHTS names the weights. It is used as it is: `load` finds what it names.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.predictor = Predictor(cfg)
        self._own = self.predictor.vocabulary
        self._turn = threading.RLock()

    def __repr__(self) -> str:
        model = self.cfg.MODEL
        return f"<{model.META_ARCHITECTURE} of {model.WEIGHTS}: {self.predictor.vocabulary.describe()}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The words that it looks for."""
        return self.predictor.vocabulary.names

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.predictor.model.device
        return device

    @cached_property
    def clip(self) -> Clip:
        """What encodes new words (MODEL.CLIP); loaded at the first of them."""
        return clip_from_config(self.cfg)

    def set_classes(self, words: Sequence[str] | str | Vocabulary) -> "Detector":
        """Look for these words from now on; returns itself.

        Args:
            words: names; "lvis", "coco" or "voc"; the file of a vocabulary; or a vocabulary.

        Raises: ValueError for no names, what is no word, repeats, words that a detector of a fixed list does not know,
            and another text encoder than the detector's; FileNotFoundError.
        """
        vocabulary = self.vocabulary(words)
        with self._turn:
            self.predictor.set_vocabulary(vocabulary)
        return self

    def vocabulary(self, words: Sequence[str] | str | Vocabulary) -> Vocabulary:
        """Words with their text embeddings, as `set_classes` makes them: encode once, give them to `predict` often.
        Raises as `set_classes` does."""
        if isinstance(words, Vocabulary):
            return words
        if isinstance(words, str) and words.endswith(VOCABULARY_ENDINGS):
            return read_vocabulary(words, key="set_classes")
        if isinstance(words, str) and words not in WORD_LISTS:
            raise ValueError(f'Words come as a list, ["{words}"], or as one of {", ".join(WORD_LISTS)}.')
        wanted = words if isinstance(words, str) else [name.strip() for name in words]
        with self._turn:  # so that CLIP is loaded once
            return words_for(wanted, self.cfg, self._own, lambda: self.clip)

    def predict(
        self,
        images: Picture | Sequence[Picture],
        threshold: float = THRESHOLD,
        batch_size: int | None = None,
        classes: Sequence[str] | str | Vocabulary | None = None,
    ) -> Detections | list[Detections]:
        """Detect.

        Args:
            images: a file, an image of Pillow's, or an array (H, W, 3) uint8 in **RGB**; or a list of them; or a
                folder, or a pattern such as "photos/**", of which images that cannot be read are left out, and named
                in the log.
            threshold: the least score in [0, 1]. batch_size: images that are looked at together; None for 8 on a GPU
                and 1 on a CPU. classes: words for these images alone, as `set_classes` takes them; `classes` of the
                detector stay. So threads with different words may share it.

        Returns: `Detections` of one image; of several a list.
        Raises: UnreadableImage, FileNotFoundError; TypeError and ValueError for what is no image; ValueError for a
            threshold outside of [0, 1], and for `classes` that `set_classes` would refuse.
        """
        found = self.stream(images, threshold, batch_size, classes)
        return next(found) if _is_one(images) else list(found)

    def stream(
        self,
        images: Picture | Sequence[Picture],
        threshold: float = THRESHOLD,
        batch_size: int | None = None,
        classes: Sequence[str] | str | Vocabulary | None = None,
    ) -> Iterator[Detections]:
        """The same one after the other, for more images than memory holds: nothing is kept, and what was found before
        an error is not lost."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} must be between 0 and 1.")
        words = None if classes is None else self.vocabulary(classes)
        images = [images] if _is_one(images) else images  # type: ignore[list-item]
        several = isinstance(images, str | os.PathLike)
        given = tqdm(find_images([os.fspath(images)]), unit="image") if several else images  # type: ignore[arg-type]
        read = self._readable(given) if several else map(_read, given)  # type: ignore[arg-type]
        for batch in batches_of(read, batch_size or (1 if self.device.type == "cpu" else GPU_BATCH)):
            yield from self._detect(batch, threshold, words)

    @staticmethod
    def _readable(files: Sequence[Path]) -> Iterator[tuple[str, np.ndarray]]:
        for file in files:
            try:
                yield _read(file)
            except UnreadableImage as error:
                logger.warning(f"Left out: {error}")

    def _detect(
        self, batch: Sequence[tuple[str, np.ndarray]], threshold: float, classes: Vocabulary | None
    ) -> list[Detections]:
        with self._looking_for(classes) as words:
            found = self.predictor.together([rgb[:, :, ::-1] for _, rgb in batch], threshold)
        return [
            Detections.of(instances, words, file, None if file else rgb)
            for (file, rgb), instances in zip(batch, found)
        ]

    @contextmanager
    def _looking_for(self, classes: Vocabulary | None) -> Iterator[Vocabulary]:
        """A turn, with other words than its own unless they are None; gives those that are looked for."""
        with self._turn:
            own = self.predictor.vocabulary
            if classes is None:
                yield own
                return
            try:
                self.predictor.set_vocabulary(classes)
                yield self.predictor.vocabulary
            finally:
                self.predictor.set_vocabulary(own)


def _is_one(images: Picture | Sequence[Picture]) -> bool:
    if isinstance(images, str | os.PathLike):
        is_pattern = any(character in os.fspath(images) for character in "*?[")
        return Path(images).is_file() or not (Path(images).is_dir() or is_pattern)
    return isinstance(images, np.ndarray | Image.Image)


def _read(image: Picture) -> tuple[str, np.ndarray]:
    """The file, if it is one, and the pixels in RGB."""
    if isinstance(image, str | os.PathLike):
        return os.fspath(image), read_image(image)
    if isinstance(image, Image.Image):
        return "", pixels_of(image)
    if isinstance(image, np.ndarray):
        return "", as_bgr(image)  # it checks the array, and leaves it as it is
    raise TypeError(
        "An image is a file name, an image of Pillow's or a uint8 array (H, W, 3) in RGB, not "
        f"{type(image).__module__}.{type(image).__qualname__}."
    )
