"""Files of results: a list of {"image_id", "category_id", "score", "bbox" or "segmentation"}, as COCO and LVIS have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dk_detr.annotations.records import is_number, whole
from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import GroundTruth, Row, index_of, read_boxes_or_masks
from dk_detr.utils import atomic_file, read_json_list

Name = Callable[[int], str]  # says which result a number is
RESULT_KEYS = ("image_id", "category_id", "score")


class ImageDetections(NamedTuple):
    """The detections of one image as small arrays: cheap to keep for a whole data set and to send between processes."""

    image_id: int
    boxes_xyxy_abs: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    classes: np.ndarray  # (N,), index into the evaluator's names
    masks: np.ndarray | None = None  # (N,) run-length encodings, see `geometry.py`


def read_results(path: str, ground_truth: GroundTruth, iou_type: str = "bbox") -> Detections:
    """Read a file of results, some thousands of detections at a time: as Python objects, those of LVIS take gigabytes.

    Raises: FileNotFoundError; ValueError for a file that is cut short or no list, and for a result of an unknown image
        or category, without score, or without the box or mask that is to be evaluated.
    """
    parts, first = [_columns([], path, 0, ground_truth, iou_type)], 0
    for rows in read_json_list(path, "file of results", "results are a list of detections"):
        parts.append(_columns(rows, path, first, ground_truth, iou_type))
        first += len(rows)
    columns = ("image", "category", "score", "boxes_or_masks")
    return Detections(*(np.concatenate([getattr(part, column) for part in parts]) for column in columns))


def _columns(rows: Sequence[Any], path: str, first: int, ground_truth: GroundTruth, iou_type: str) -> Detections:
    """Some results of a file. first: the number of the first in the file."""

    def name(number: int) -> str:
        return f"{path}, result {first + number}"

    _check_keys(rows, name)
    image = _places("image", ground_truth.image_ids, rows, name, ground_truth.file)
    category = _places("category", ground_truth.category_ids, rows, name, ground_truth.file)
    found = read_boxes_or_masks(rows, image, ground_truth.sizes, iou_type, name)
    return Detections(image, category, _scores(rows, name), found)


def _scores(rows: Sequence[Row], name: Name) -> np.ndarray:
    try:
        score = np.array([row["score"] for row in rows], dtype=np.float64)
        if np.isfinite(score).all():
            return score
    except OverflowError:
        pass
    wrong = next(number for number, row in enumerate(rows) if not is_number(row["score"]))
    raise ValueError(f"{name(wrong)}: its score is not finite.")


def _places(kind: str, ids: np.ndarray, rows: Sequence[Row], name: Name, annotation_file: str) -> np.ndarray:
    index = index_of(ids, _whole_numbers([row[f"{kind}_id"] for row in rows], f"{kind}_id", name))
    if (index < 0).any():
        number = int(np.argmin(index))
        raise ValueError(
            f"{name(number)}: {annotation_file} has no {kind} {rows[number][f'{kind}_id']}. "
            "Were they predicted for another annotation file?"
        )
    return index


def _whole_numbers(values: Sequence[Any], key: str, name: Name) -> np.ndarray:
    found = np.array(values) if len(values) else np.empty(0, dtype=np.int64)
    if found.dtype.kind == "i":
        return found.astype(np.int64)
    numbers = np.empty(len(values), dtype=np.int64)
    for number, value in enumerate(values):
        try:
            numbers[number] = whole(value)
        except ValueError as error:
            raise ValueError(f'{name(number)}: its {key} is {error}.') from error
    return numbers


def _check_keys(rows: Sequence[Any], name: Name) -> None:
    for number, row in enumerate(rows):
        lacking = [key for key in RESULT_KEYS if not (isinstance(row, dict) and isinstance(row.get(key), int | float))]
        if lacking:
            raise ValueError(f'{name(number)} has no number "{lacking[0]}": {row!r:.80}.')


def gather(
    ground_truth: GroundTruth,
    predictions: Sequence[ImageDetections],
    category_of_class: np.ndarray,
    iou_type: str = "bbox",
) -> Detections:
    """The detections of many images as columns.

    Args:
        category_of_class: (K,) the category index of each class.

    Raises: ValueError where masks are wanted ("segm") and an image has detections without.
    """
    image_ids = np.array([image.image_id for image in predictions], dtype=np.int64)
    counts = [len(image.scores) for image in predictions]
    image = np.repeat(index_of(ground_truth.image_ids, image_ids), counts)
    classes = np.concatenate([np.empty(0, np.int64), *(image.classes for image in predictions)])
    scores = np.concatenate([np.empty(0), *(image.scores for image in predictions)])
    found = (_boxes if iou_type == "bbox" else _masks)(predictions)
    return Detections(image, category_of_class[classes], scores, found)


def _boxes(predictions: Sequence[ImageDetections]) -> np.ndarray:
    boxes_xywh_abs = np.concatenate([np.empty((0, 4)), *(image.boxes_xyxy_abs for image in predictions)])
    boxes_xywh_abs[:, 2:] -= boxes_xywh_abs[:, :2]
    return boxes_xywh_abs


def _masks(predictions: Sequence[ImageDetections]) -> np.ndarray:
    for image in predictions:
        if image.masks is None and len(image.scores):
            raise ValueError(f"Image {image.image_id} has detections without pred_masks; others have them.")
    return np.concatenate([np.empty(0, dtype=object), *(i.masks for i in predictions if i.masks is not None)])


def write_results(path: Path, predictions: Iterable[ImageDetections], category_ids: Sequence[int]) -> None:
    """Write a file of results, image by image: in one piece it would take more memory than everything else.

    Args:
        category_ids: of each class.
    """
    with atomic_file(path) as part, open(part, "w", encoding="utf-8") as file:
        separator = "["
        for image in predictions:
            for row in _rows(image, category_ids):
                file.write(f"{separator}{json.dumps(row)}")
                separator = ",\n"
        file.write("]\n" if separator != "[" else "[]\n")


def _rows(image: ImageDetections, category_ids: Sequence[int]) -> Iterable[Row]:
    columns = zip(image.classes.tolist(), _boxes([image]).tolist(), image.scores.tolist())
    for number, (label, box, score) in enumerate(columns):
        row = {"image_id": image.image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        if image.masks is not None:
            mask = image.masks[number]
            row["segmentation"] = {"size": mask["size"], "counts": mask["counts"].decode()}
        yield row
