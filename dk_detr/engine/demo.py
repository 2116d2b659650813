"""What tools/demo.py does: detect in pictures with a vocabulary of one's own, and draw what was found."""

from __future__ import annotations

import argparse
import glob
import itertools
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.structures import Instances
from tqdm import tqdm

from dk_detr.engine.names import split_names
from dk_detr.engine.pictures import confident_boxes, draw_boxes, save_picture, with_legend
from dk_detr.engine.predictor import Predictor, UnreadableImage, read_image
from dk_detr.engine.setup import one_clear_error, setup_cfg
from dk_detr.language import (
    WORD_LISTS,
    build_vocabulary,
    clip_from_config,
    is_closed,
    readable,
    require_words_of,
)
from dk_detr.structures import Vocabulary, require_words, write_whole

DETECTIONS_FILE = "detections.json"
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})
WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})  # pictures of other images are written as .png


def main(args: argparse.Namespace) -> None:
    """See tools/demo.py for the arguments. Ends with exit status 1 if an image could not be read."""
    with one_clear_error():
        _check(args)
        images = find_images(args.input)
        targets = picture_paths(images, Path(args.output))
        cfg = setup_cfg(args.config_file, args.opts)
        predictor = Predictor(cfg)
        predictor.set_vocabulary(choose_vocabulary(cfg, args.vocabulary, args.custom_vocabulary, predictor.vocabulary))
        print(f"Looking for {predictor.vocabulary.describe()}")
        unreadable = detect_in_images(predictor, images, targets, Path(args.output), args.confidence_threshold)
    print(f"{len(images) - len(unreadable)} pictures and {DETECTIONS_FILE} are in {args.output}")
    if unreadable:
        print(f"{len(unreadable)} of {len(images)} images could not be read:", *unreadable, sep="\n  ", file=sys.stderr)
        sys.exit(1)


def detect_in_images(
    predictor: Predictor, images: Sequence[Path], targets: Sequence[Path], output: Path, threshold: float
) -> list[str]:
    """Write a picture for each image, and one JSON of all detections with at least the score `threshold`.

    Returns: what is wrong with the images that could not be read; the others are done all the same.
    """
    records, unreadable = [], []
    for image, target in zip(tqdm(images, desc="images", unit="image"), targets):
        try:
            bgr = read_image(image, "BGR")
        except UnreadableImage as error:
            unreadable.append(str(error))
            continue
        instances = predictor(bgr)
        instances = instances[instances.scores >= threshold]
        save_picture(draw_detections(bgr[:, :, ::-1], instances, predictor.vocabulary), target)
        size = {"width": bgr.shape[1], "height": bgr.shape[0]}
        found = detection_records(instances, predictor.vocabulary)
        records.append({"file": str(image), **size, "picture": target.name, "detections": found})
    lines = ",\n".join(json.dumps(record) for record in records)  # an image a line
    write_whole(output / DETECTIONS_FILE, f"[\n{lines}\n]\n")
    return unreadable


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
            code = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            record["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    return records


def choose_vocabulary(cfg: CfgNode, choice: str | None, custom: str | None, own: Vocabulary) -> Vocabulary:
    """The words to look for.

    Args:
        choice: "lvis", "coco", "custom", or None for the detector's own words. custom: names separated by commas.
        own: the words of MODEL.VOCABULARY.TEST; where they include all that are asked for, nothing is encoded. A closed
            detector knows no others.
    """
    if choice is None:
        return own
    names, novel = (custom_names(custom or ""), ()) if choice == "custom" else WORD_LISTS[choice]
    closed = is_closed(cfg)
    if closed or (choice != "custom" and set(names) <= set(own.names)):
        return own.select(names)
    print(f"Encoding {len(names)} names with CLIP {cfg.MODEL.CLIP.ARCHITECTURE} {cfg.MODEL.CLIP.WEIGHTS}")
    clip = clip_from_config(cfg)
    require_words_of(clip, own)
    return build_vocabulary(names, clip, cfg.MODEL.VOCABULARY.PROMPT, novel)


def custom_names(text: str) -> list[str]:
    """"a, b" -> ["a", "b"] (see `split_names`). Raises ValueError for none, for what is no word, and for two that the
    text encoder would read as the same."""
    names = split_names(text)
    require_words(names)
    repeated = [words for words, times in Counter(map(readable, names)).items() if times > 1]
    if repeated:
        raise ValueError(f'--custom_vocabulary names "{repeated[0]}" more than once.')
    return names


def find_images(inputs: Sequence[str]) -> list[Path]:
    """The image files meant by files, folders (their images, by name) and patterns such as "photos/*.jpg"."""
    found = [image for given in inputs for image in _images_at(given)]
    return list(dict.fromkeys(found))


def _images_at(given: str) -> list[Path]:
    path = Path(given)
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not images:
            known = ", ".join(sorted(IMAGE_SUFFIXES))
            raise FileNotFoundError(f"The folder {given} (--input) holds no images ({known}).")
        return images
    files = [path] if path.is_file() else sorted(map(Path, glob.glob(given)))
    if not files:
        raise FileNotFoundError(f"There is no image or folder {given} (--input).")
    return files


def picture_paths(images: Sequence[Path], output: Path) -> list[Path]:
    """Where the pictures of images go: their own names, numbered where two are the same.

    Raises: ValueError if a picture would overwrite one of the images.
    """
    paths: dict[Path, None] = {}
    for image in images:
        suffix = image.suffix if image.suffix.lower() in WRITTEN_SUFFIXES else ".png"
        endings = itertools.chain([suffix], (f"_{number}{suffix}" for number in itertools.count(2)))
        free = next(path for path in (output / (image.stem + ending) for ending in endings) if path not in paths)
        paths[free] = None
    originals = {image.resolve() for image in images}
    overwritten = [path for path in paths if path.resolve() in originals]
    if overwritten:
        raise ValueError(f"--output {output} would overwrite the image {overwritten[0]}; choose another folder.")
    return list(paths)


def _check(args: argparse.Namespace) -> None:
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
