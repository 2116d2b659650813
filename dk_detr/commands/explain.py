"""What tools/explain.py does: say of one image why the detector finds what it finds, and what CLIP taught it."""

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from dk_detr.commands.demo import check_words, choose_vocabulary, first_frame
from dk_detr.engine.predictor import Predictor, with_words_of_training
from dk_detr.engine.setup import one_clear_error, setup_cfg, with_values
from dk_detr.explain import ImageExplained, Teaching, explain_detections, explain_teaching
from dk_detr.explain.numbers import numbers_of_detections, numbers_of_teaching
from dk_detr.explain.pictures import draw_detection, draw_regions, draw_relations
from dk_detr.explain.teaching import refuse_without_teacher
from dk_detr.utils import as_json, atomic_write
from dk_detr.visualization.pictures import save_picture

logger = logging.getLogger(__name__)


def main(args: argparse.Namespace) -> None:
    """See tools/explain.py for the arguments."""
    with one_clear_error():
        _check(args)
        cfg = setup_cfg(args.config_file, args.opts)
        cfg = with_values(cfg, {"MODEL.DETR.COMPILED": [], "MODEL.DETR.CHECKPOINTED": []})  # hooks see every layer
        if args.teacher:
            refuse_without_teacher(cfg)
        image, output = Path(args.input), Path(args.output)
        bgr = first_frame(image)
        if args.vocabulary:
            cfg = with_words_of_training(cfg)
        predictor = Predictor(cfg)
        predictor.set_vocabulary(choose_vocabulary(cfg, args.vocabulary, args.custom_vocabulary, predictor.vocabulary))
        explained = explain_detections(predictor, bgr, args.confidence_threshold, args.detections)
        _say_what_is_explained(explained, args.confidence_threshold)
        teaching = _teaching(cfg, predictor, bgr, asked=args.teacher)
        pictures = write_pictures(bgr[:, :, ::-1], image, output, explained, teaching)
        numbers = numbers_of(cfg, image, explained, teaching, args.confidence_threshold)
        atomic_write(output / f"{image.stem}_explained.json", as_json(numbers | {"pictures": pictures}) + "\n")
    print(f"{', '.join(pictures)} and {image.stem}_explained.json are in {args.output}")


def write_pictures(
    rgb: np.ndarray, image: Path, output: Path, explained: ImageExplained, teaching: Teaching | None
) -> list[str]:
    """A sheet for each detection, and two of the teaching, where there is one; returns their names."""
    names = []

    def save(picture: np.ndarray, what: str) -> None:
        names.append(f"{image.stem}_{what}.png")
        save_picture(picture, output / names[-1])

    for number, detection in enumerate(explained.detections, start=1):
        save(draw_detection(rgb, explained, detection, image.name), f"detection_{number}")
    if teaching is not None:
        save(draw_regions(rgb, teaching, image.name), "regions")
        save(draw_relations(rgb, teaching, image.name), "relations")
    return names


def numbers_of(
    cfg: CfgNode, image: Path, explained: ImageExplained, teaching: Teaching | None, threshold: float
) -> dict[str, Any]:
    """What the JSON holds beside the names of the pictures."""
    return {
        "file": str(image),
        "width": explained.size[1],
        "height": explained.size[0],
        "weights": cfg.MODEL.WEIGHTS,
        "threshold": threshold,
        "above_threshold": explained.num_confident,
        "fused_with_clip": explained.fused,
        "levels": [[width, height] for height, width in explained.levels],
        "detections": numbers_of_detections(explained),
        "teaching": None if teaching is None else numbers_of_teaching(teaching),
    }


def _say_what_is_explained(explained: ImageExplained, threshold: float) -> None:
    number = len(explained.detections)
    if explained.num_confident:
        print(f"{explained.num_confident} detections have a score of at least {threshold:g}; explained: {number}")
    else:
        best = explained.detections[0].score
        print(
            f"No detection has a score of at least {threshold:g}; the best has {best:.3f}. Explained: the best {number}"
        )


def _teaching(cfg: CfgNode, predictor: Predictor, bgr: np.ndarray, asked: bool) -> Teaching | None:
    """None where the detector was not taught, or, unless it was asked for, where its teacher cannot be loaded; then the
    log says why."""
    if not asked and "Distillation" not in cfg.MODEL.TRAINING_EXTENSIONS:
        return None
    try:
        teaching = explain_teaching(cfg, predictor.sample_of(bgr), predictor.vocabulary)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if asked:
            raise
        logger.warning(f"What the teacher says is left out: {error}")
        return None
    if len(teaching) < 2:
        said = f"The distillation chooses {len(teaching)} regions in this image: there is nothing to compare."
        if asked:
            raise ValueError(said)
        logger.warning(said)
        return None
    return teaching


def _check(args: argparse.Namespace) -> None:
    if args.detections < 1:
        raise ValueError(f"--detections {args.detections} must be 1 or more.")
    check_words(args)
    if not Path(args.input).is_file():
        raise FileNotFoundError(f"There is no image {args.input} (--input takes one).")
