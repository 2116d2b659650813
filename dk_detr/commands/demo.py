"""What tools/demo.py does: detect in pictures with a vocabulary of one's own, and draw what was found."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.structures import Instances
from tqdm import tqdm

from dk_detr.commands.picture_paths import DETECTIONS_FILE, picture_paths
from dk_detr.data.image_files import find_images
from dk_detr.data.images import UnreadableImage, open_image, read_pixels
from dk_detr.detector.detections import encode_mask
from dk_detr.detector.words import refuse_repeats, words_for
from dk_detr.engine.predictor import Predictor, with_words_of_training
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.language import WORD_LISTS, Clip, clip_from_config
from dk_detr.structures import Vocabulary
from dk_detr.utils import atomic_file
from dk_detr.utils.names import split_names
from dk_detr.visualization.pictures import confident_boxes, draw_boxes, save_picture, with_legend

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> None:
    """See tools/demo.py for the arguments. Ends with exit status 1 if an image could not be done."""
    with one_clear_error():
        check_words(args)
        images = find_images(args.input)
        targets = picture_paths(images, Path(args.output))
        cfg = setup_cfg(args.config_file, args.opts)
        predictor = Predictor(with_words_of_training(cfg) if args.vocabulary else cfg)
        predictor.set_vocabulary(choose_vocabulary(cfg, args.vocabulary, args.custom_vocabulary, predictor.vocabulary))
        print(f"Looking for {predictor.vocabulary.describe()}")
        failed = detect_in_images(predictor, images, targets, Path(args.output), args.confidence_threshold)
    print(f"{len(images) - len(failed)} pictures and {DETECTIONS_FILE} are in {args.output}")
    if failed:
        heading = f"{len(failed)} of {len(images)} images could not be read or drawn:"
        print(heading, *failed, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def detect_in_images(
    predictor: Predictor, images: Sequence[Path], targets: Sequence[Path], output: Path, threshold: float
) -> list[str]:
    """Write a picture for each image, and one JSON of all detections with at least the score `threshold`.

    Whatever goes wrong, the JSON has the images that were done.

    Returns: what is wrong with those that could not be done.
    """
    failed = []
    with growing_list(output / DETECTIONS_FILE) as add:
        for image, target in zip(tqdm(images, desc="images", unit="image"), targets):
            try:
                add(_detect_in(predictor, image, target, threshold))
            except Exception as error:  # the next image may be sound
                if os.getenv("DK_DETR_TRACEBACK"):
                    raise
                failed.append(_failure(image, error))
    return failed


@contextmanager
def growing_list(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that adds a record to a JSON list, one record a line. The file is complete when the block ends,
    also by an error or Ctrl-C. If the process is killed, the records so far are in `<path>.part`.
    """
    stopped: BaseException | None = None
    with atomic_file(path) as part, open(part, "w", encoding="utf-8") as file:
        separators = itertools.chain(["[\n"], itertools.repeat(",\n"))

        def add(record: dict[str, Any]) -> None:
            file.write(next(separators) + json.dumps(record))
            file.flush()

        try:
            yield add
        except BaseException as error:  # noqa: BLE001  raised again below
            stopped = error
        file.write("\n]\n" if next(separators) == ",\n" else "[]\n")
    if stopped is not None:
        raise stopped


def _detect_in(predictor: Predictor, image: Path, target: Path, threshold: float) -> dict[str, Any]:
    """Writes the picture of one image; returns its record."""
    bgr = first_frame(image)
    instances = predictor(bgr)
    instances = instances[instances.scores >= threshold]
    save_picture(draw_detections(bgr[:, :, ::-1], instances, predictor.vocabulary), target)
    size = {"width": bgr.shape[1], "height": bgr.shape[0]}
    found = detection_records(instances, predictor.vocabulary)
    return {"file": str(image), **size, "picture": target.name, "detections": found}


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


def draw_detections(rgb: np.ndarray, instances: Instances, vocabulary: Vocabulary) -> np.ndarray:
    """The picture of one image; the legend comes with the first novel word."""
    boxes = confident_boxes(instances, vocabulary, 0.0)
    picture = draw_boxes(rgb, boxes)
    return with_legend(picture) if any(boxes.novel) else picture


def detection_records(instances: Instances, vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Detections for the JSON, the best first: name, score, box xyxy in pixels of the image, and of a detector with
    masks "segmentation", COCO's compressed RLE."""
    rows = zip(instances.pred_classes.tolist(), instances.scores.tolist(), instances.pred_boxes.tensor.tolist())
    records: list[dict[str, Any]] = [
        {"name": vocabulary.names[index], "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for index, score, box in rows
    ]
    if instances.has("pred_masks"):
        for record, mask in zip(records, instances.pred_masks.numpy()):
            record["segmentation"] = encode_mask(mask)
    return records


def choose_vocabulary(cfg: CfgNode, choice: str | None, custom: str | None, own: Vocabulary) -> Vocabulary:
    """The words to look for.

    Args:
        choice: of WORD_LISTS, "custom", or None for the detector's own words. custom: names separated by commas.
        own: the words that the detector has; where they include all that are asked for, nothing is encoded. A closed
            detector knows no others.

    Raises: ValueError for a CLIP (MODEL.CLIP) that did not encode the detector's words.
    """
    if choice is None:
        return own
    names, novel = (custom_names(custom or ""), ()) if choice == "custom" else WORD_LISTS[choice]
    if choice != "custom" and set(names) <= set(own.names):
        return own.select(names)

    def clip() -> Clip:
        print(f"Encoding {len(names)} names with CLIP {cfg.MODEL.CLIP.ARCHITECTURE} {cfg.MODEL.CLIP.WEIGHTS}")
        return clip_from_config(cfg)

    return words_for(names, cfg, own, clip, novel)


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
