"""What tools/demo.py does: detect in pictures and videos with a vocabulary of one's own, and draw what was found."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from tqdm import tqdm

from dk_detr.commands.demo_frames import check_frame_options, detect_in_frames, source_of
from dk_detr.commands.demo_records import growing_list, record_of
from dk_detr.commands.picture_paths import DETECTIONS_FILE, picture_paths
from dk_detr.data.image_files import find_images
from dk_detr.data.images import UnreadableImage, open_image, read_pixels
from dk_detr.detector import Detections, Detector
from dk_detr.detector.sliced import predict_sliced
from dk_detr.detector.thresholds import Thresholds
from dk_detr.detector.words import refuse_repeats, words_for
from dk_detr.engine.predictor import with_words_of_training
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.language import Clip, clip_from_config
from dk_detr.structures import Vocabulary
from dk_detr.utils.names import split_names
from dk_detr.visualization.pictures import save_picture

logger = logging.getLogger(__name__)


Look = Callable[[np.ndarray], Detections]
"""(H, W, 3) uint8 RGB -> what counts of what is in it."""


def main(args: argparse.Namespace) -> None:
    """See tools/demo.py for the arguments. Ends with exit status 1 if an image could not be done."""
    with one_clear_error():
        thresholds = _check(args)
        images = find_images(args.input) if args.input else []
        targets = picture_paths(images, Path(args.output))
        source = None if args.input else source_of(args)
        cfg = setup_cfg(args.config_file, args.opts)
        detector = Detector(with_words_of_training(cfg) if args.vocabulary else cfg)
        own = detector.predictor.vocabulary
        vocabulary = choose_vocabulary(cfg, args.vocabulary, args.custom_vocabulary, own)
        detector.set_classes(vocabulary)
        thresholds.require_known(detector.classes)
        print(f"Looking for {detector.predictor.vocabulary.describe()}")
        look = look_of(detector, thresholds, args.slice)
        if source is not None:
            detect_in_frames(look, source, args, bool(detector.predictor.vocabulary.novel.any()))
            return
        failed = detect_in_images(look, images, targets, Path(args.output))
    print(f"{len(images) - len(failed)} pictures and {DETECTIONS_FILE} are in {args.output}")
    if failed:
        heading = f"{len(failed)} of {len(images)} images could not be read or drawn:"
        print(heading, *failed, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def look_of(detector: Detector, thresholds: Thresholds, side: int | None) -> Look:
    """Detect in one image; `side`: of tiles to look at, too, in pixels, or None."""

    def look(rgb: np.ndarray) -> Detections:
        found = (
            detector.predict(rgb, thresholds.least)
            if side is None
            else predict_sliced(detector, rgb, thresholds.least, side)
        )
        assert isinstance(found, Detections)  # of one image
        return thresholds.keep(found)

    return look


def detect_in_images(look: Look, images: Sequence[Path], targets: Sequence[Path], output: Path) -> list[str]:
    """Write a picture for each image, and one JSON of all detections.

    Whatever goes wrong, the JSON has the images that were done.

    Returns: what is wrong with those that could not be done.
    """
    failed = []
    with growing_list(output / DETECTIONS_FILE) as add:
        for image, target in zip(tqdm(images, desc="images", unit="image"), targets):
            try:
                add(_detect_in(look, image, target))
            except Exception as error:  # the next image may be sound
                if os.getenv("DK_DETR_TRACEBACK"):
                    raise
                failed.append(_failure(image, error))
    return failed


def _detect_in(look: Look, image: Path, target: Path) -> dict[str, Any]:
    """Writes the picture of one image; returns its record."""
    found = look(np.ascontiguousarray(first_frame(image)[:, :, ::-1]))
    save_picture(np.asarray(found.draw()), target)
    return record_of(found, str(image), picture=target.name)


def first_frame(path: Path) -> np.ndarray:
    """The first frame of an image file, in BGR; a warning says if there are more."""
    with open_image(path) as image:
        bgr = read_pixels(image, "BGR")
        if getattr(image, "is_animated", False) and image.format != "MPO":  # there the others are previews and the like
            logger.warning(f"{path} has {getattr(image, 'n_frames', 'several')} frames; the first is looked at.")
    return bgr


def _failure(image: Path, error: Exception) -> str:
    if isinstance(error, UnreadableImage):
        return str(error)
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"Image {image}: {reason}"


def choose_vocabulary(cfg: CfgNode, choice: str | None, custom: str | None, own: Vocabulary) -> Vocabulary:
    """The words to look for (see `words_for`).

    Args:
        choice: of WORD_LISTS, "custom", or None for the detector's own words, which are `own`. custom: names separated
            by commas.
    """
    if choice is None:
        return own

    def clip() -> Clip:
        print(f"Encoding the words with CLIP {cfg.MODEL.CLIP.ARCHITECTURE} {cfg.MODEL.CLIP.WEIGHTS}")
        return clip_from_config(cfg)

    return words_for(custom_names(custom or "") if choice == "custom" else choice, cfg, own, clip)


def custom_names(text: str) -> list[str]:
    """"a, b" -> ["a", "b"] (see `split_names`). Raises ValueError for none, for what is no word, and for two that the
    text encoder would read as the same."""
    names = split_names(text)
    try:
        refuse_repeats(names)
    except ValueError as error:
        raise ValueError(f"--custom_vocabulary: {error}") from error
    return names


def check_words(args: argparse.Namespace) -> None:
    """Raises ValueError for arguments of the demo's kind that do not go together: words, threshold, output."""
    if not 0 <= args.confidence_threshold <= 1:
        raise ValueError(f"--confidence-threshold {args.confidence_threshold} must be between 0 and 1.")
    if args.vocabulary == "custom" and args.custom_vocabulary is None:
        raise ValueError('--vocabulary custom needs the names: --custom_vocabulary "headphone,webcam".')
    if args.vocabulary != "custom" and args.custom_vocabulary is not None:
        raise ValueError("--custom_vocabulary counts with --vocabulary custom only.")
    if args.vocabulary == "custom":
        custom_names(args.custom_vocabulary)
    if Path(args.output).is_file():
        raise ValueError(f"--output {args.output} is a file; a folder is needed.")


def _check(args: argparse.Namespace) -> Thresholds:
    check_words(args)
    if args.slice is not None and args.slice < 1:
        raise ValueError(f"--slice {args.slice} must be at least 1 pixel.")
    check_frame_options(args)
    return Thresholds.parse(args.confidence_threshold, args.thresholds)
