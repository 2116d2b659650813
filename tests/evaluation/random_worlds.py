"""Random annotation files and results that hold what evaluators stumble over, and what `lvis` and `pycocotools` say."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from lvis import LVIS, LVISEval, LVISResults
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

SIDE, CATEGORIES = 200, 7
Row = dict[str, Any]


def random_world(
    folder: Path, seed: int, num_images: int = 14, crowds: bool = False, most: int = 40
) -> tuple[str, str]:
    """Write annotations.json and results.json; returns their paths.

    Coordinates and scores are coarse, so that scores and overlaps tie, and overlaps meet thresholds. There are objects
    of all sizes, also of those that part small from large, with areas that are not their boxes' or 0, some to be
    ignored, images without objects, images without detections, categories without objects (the last) or without
    detections (the first), boxes beyond the image and without area, ids with gaps in any order.

    Args:
        crowds: some objects are crowds, with runs for a mask; LVIS knows no crowds. most: detections of an image.
    """
    dice = np.random.default_rng(seed)
    ids = (dice.permutation(CATEGORIES * 3)[:CATEGORIES] + 1).tolist()
    image_ids = (dice.permutation(num_images * 5)[:num_images] + 1).tolist()
    annotations: list[Row] = []
    results: list[Row] = []
    for number, image in enumerate(image_ids):
        objects = _objects(dice, 0 if number == 0 else int(dice.integers(1, 12)), ids[:-1], crowds)
        annotations += [{**thing, "image_id": image} for thing in objects]
        count = 0 if number == 1 else int(dice.integers(1, most))
        results += [{**found, "image_id": image} for found in _detections(dice, objects, count, ids[1:])]
    for number, thing in enumerate(dice.permutation(np.array(annotations, dtype=object)).tolist()):
        annotations[number] = {**thing, "id": number + 1}
    images = [_image(dice, image, annotations, ids) for image in image_ids]
    frequencies = ["r", "c", "f", "f", "c", "r", "r"]
    categories = [{"id": k, "name": f"thing {k}", "frequency": f} for k, f in zip(ids, frequencies)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write(folder / "annotations.json", content), write(folder / "results.json", results)


def write(path: Path, content: Any) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def _box(dice: np.random.Generator) -> list[float]:
    size = dice.choice([8, 20, 32, 40, 96, 110]) + dice.integers(0, 3, 2) * 4
    corner = dice.integers(0, 10, 2) * 10
    return [float(number) for number in (*corner, *size)]


def _objects(dice: np.random.Generator, count: int, ids: list[int], crowds: bool) -> list[Row]:
    things = []
    for _ in range(count):
        box = _box(dice)
        area = float(np.round(box[2] * box[3] * dice.choice([1.0, 0.6, 0.0], p=[0.6, 0.35, 0.05]), 1))
        flags = {"iscrowd": int(crowds and dice.random() < 0.25)} | ({"ignore": 1} if dice.random() < 0.1 else {})
        polygon = [box[0], box[1], box[0] + box[2], box[1], box[0] + box[2], box[1] + box[3], box[0], box[1] + box[3]]
        category = int(dice.choice(ids))
        mask = runs(box) if flags["iscrowd"] else [polygon]
        things.append({"category_id": category, "bbox": box, "area": area, "segmentation": mask, **flags})
    return things


def runs(box: list[float]) -> Row:
    """A mask as COCO writes crowds: the lengths of its runs, column by column, background first."""
    x, y, w, h = map(int, box)
    pixels = np.zeros((SIDE, SIDE), dtype=int)
    pixels[y : y + h, x : x + w] = 1
    edges = np.flatnonzero(np.diff(pixels.flatten(order="F"), prepend=0, append=2))
    return {"size": [SIDE, SIDE], "counts": np.diff(edges, prepend=0).tolist()}


def _detections(dice: np.random.Generator, objects: list[Row], count: int, ids: list[int]) -> list[Row]:
    found = []
    for _ in range(count):
        near = objects[int(dice.integers(len(objects)))] if objects and dice.random() < 0.7 else None
        box = [n + float(s) for n, s in zip(near["bbox"], dice.integers(-1, 2, 4) * 2)] if near else _box(dice)
        right = near is not None and near["category_id"] in ids and dice.random() < 0.8
        category = near["category_id"] if right else dice.choice(ids)
        box[2] *= float(dice.random() > 0.03)
        found.append({"category_id": int(category), "bbox": box, "score": float(dice.integers(1, 30) / 32)})
    return found


def _image(dice: np.random.Generator, image: int, annotations: list[Row], ids: list[int]) -> Row:
    present = {row["category_id"] for row in annotations if row["image_id"] == image}
    negative = [k for k in ids if k not in present and dice.random() < 0.5]
    not_exhaustive = [k for k in present if dice.random() < 0.3]
    size = {"height": SIDE, "width": SIDE}
    return {"id": image, **size, "neg_category_ids": negative, "not_exhaustive_category_ids": not_exhaustive}


def with_masks(results: list[Row]) -> list[Row]:
    """The same results with a triangle instead of the box; theirs would take areas from boxes."""
    return [{**{k: v for k, v in row.items() if k != "bbox"}, "segmentation": triangle(row["bbox"])} for row in results]


def triangle(box: list[float]) -> Row:
    """A mask as detectors write it."""
    x, y, w, h = box
    encoded = masks.frPyObjects([[x, y, x + w, y, x + w / 2, y + h]], SIDE, SIDE)[0]
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def lvis_says(annotations: str, results: list[Row], max_detections: int = 300, iou_type: str = "bbox") -> LVISEval:
    """What `lvis` says of results, which it would change."""
    truth = LVIS(annotations)
    evaluation = LVISEval(truth, LVISResults(truth, copy.deepcopy(results), max_detections), iou_type)
    evaluation.params.max_dets = max_detections
    evaluation.run()
    return evaluation


def coco_says(
    annotations: str, results: list[Row], iou_type: str = "bbox", use_cats: int = 1, limit: int = 100
) -> COCOeval:
    """What `pycocotools` says of results."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(annotations)
        evaluation = COCOeval(truth, truth.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.params.useCats = use_cats
        evaluation.params.maxDets = [1, 10, limit]
        evaluation.evaluate()
        evaluation.accumulate()
        if use_cats:
            evaluation.summarize()
    return evaluation
