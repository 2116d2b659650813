"""Ground truth: an annotation file in COCO's or LVIS's format as arrays. I images, K categories, G objects."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dk_detr.evaluation import regions

Row = dict[str, Any]
FREQUENCIES = ("r", "c", "f")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Objects:
    """What there is to find, sorted by category, then image, then as in the file.

    Attributes:
        image, category: (G,) indices of `GroundTruth.image_ids` and `category_ids`. regions: see `regions.py`.
        area: (G,) of the mask where the file says so, pixels. crowd: (G,) bool, many things in one region.
        marked: (G,) bool, "ignore" in the file. difficult: (G,) bool, as VOC calls what may be missed.
    """

    image: np.ndarray
    category: np.ndarray
    regions: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    marked: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class GroundTruth:
    """An annotation file.

    Attributes:
        file: its path, for messages. image_ids, category_ids: (I,) and (K,), ascending. names: K.
        frequencies: K of "r", "c", "f"; None where a category has none.
        sizes: (I, 2) height and width. objects: see `Objects`.
        negative: groups (see `group`) of images that are known to show none of a category. not_exhaustive: groups of
            which not all objects are annotated.
        lacking: of the fields of LVIS the first that is not there, in words; "" where all are.
    """

    file: str
    image_ids: np.ndarray
    category_ids: np.ndarray
    names: tuple[str, ...]
    frequencies: tuple[str | None, ...]
    sizes: np.ndarray
    objects: Objects
    negative: np.ndarray
    not_exhaustive: np.ndarray
    lacking: str

    def group(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        """One number for an image and a category: ascending by category, then image."""
        return category.astype(np.int64) * len(self.image_ids) + image

    @cached_property
    def images(self) -> frozenset[int]:
        """The ids of the images."""
        return frozenset(self.image_ids.tolist())


def read_ground_truth(annotation_file: str, iou_type: str = "bbox") -> GroundTruth:
    """Read an annotation file; polygons are read for `iou_type` "segm" only, they are most of it.

    Raises: FileNotFoundError; ValueError for a file that is cut short or in another format, and for an annotation of
        an unknown image or category, or without the box or mask that is to be scored.
    """
    content = _read(annotation_file)
    images = sorted(content["images"], key=lambda row: row["id"])
    categories = sorted(content["categories"], key=lambda row: row["id"])
    image_ids, category_ids = _ids(images), _ids(categories)
    sizes = np.array([[row.get("height", 0), row.get("width", 0)] for row in images], dtype=np.int64).reshape(-1, 2)
    negative, not_exhaustive = (_groups_of(images, key, category_ids) for key in FEDERATED)
    return GroundTruth(
        annotation_file,
        image_ids,
        category_ids,
        tuple(row["name"] for row in categories),
        tuple(row.get("frequency") for row in categories),
        sizes,
        _objects(content["annotations"], (image_ids, category_ids), sizes, iou_type, annotation_file),
        negative,
        not_exhaustive,
        _first_lacking(categories, images),
    )


def read_json(path: str, what: str) -> Any:
    """What a JSON file holds. Raises FileNotFoundError; ValueError where it is cut short."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {what} {path}.")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        raise ValueError(f"The {what} {path} is no whole JSON file: {error}.") from error


def index_of(ids: np.ndarray, wanted: Sequence[int] | np.ndarray) -> np.ndarray:
    """The places of the wanted ids among ascending ids; -1 where there is none."""
    wanted = np.asarray(wanted, dtype=np.int64)
    place = np.searchsorted(ids, wanted)
    known = np.append(ids, -1)[place] == wanted if len(ids) else np.zeros(len(wanted), bool)
    return np.where(known & (place < len(ids)), place, -1)


def _read(path: str) -> dict[str, Any]:
    content = read_json(path, "annotation file")
    keys = ("images", "annotations", "categories")
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f'{path} has no "{missing[0]}": it is no annotation file in COCO\'s or LVIS\'s format.')
    if not content["categories"]:
        raise ValueError(f"{path} lists no categories: there is nothing to score.")
    return content


def _ids(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["id"] for row in rows], dtype=np.int64)


def _groups_of(images: Sequence[Row], key: str, category_ids: np.ndarray) -> np.ndarray:
    """The groups that a list of categories in each image names, ascending."""
    image = np.repeat(np.arange(len(images)), [len(row.get(key, ())) for row in images])
    category = index_of(category_ids, [number for row in images for number in row.get(key, ())])
    return np.unique((category * len(images) + image)[category >= 0])


def _first_lacking(categories: Sequence[Row], images: Sequence[Row]) -> str:
    for kind, rows, keys in (("category", categories, ("name", "frequency")), ("image", images, FEDERATED)):
        for row in rows:
            for key in keys:
                if key not in row:
                    return f'{kind} {row["id"]} has no "{key}"'
    strange = [row for row in categories if row["frequency"] not in FREQUENCIES]
    return f'category {strange[0]["id"]} has the frequency "{strange[0]["frequency"]}"' if strange else ""


def _objects(
    annotations: Sequence[Row], ids: tuple[np.ndarray, np.ndarray], sizes: np.ndarray, iou_type: str, file: str
) -> Objects:
    image_ids, category_ids = ids
    image = index_of(image_ids, [row["image_id"] for row in annotations])
    category = index_of(category_ids, [row["category_id"] for row in annotations])
    for kind, index in (("image", image), ("category", category)):
        if (index < 0).any():
            row = annotations[int(np.argmin(index))]
            where = f"{file}: annotation {row.get('id', '?')}"
            raise ValueError(f"{where} is of {kind} {row[f'{kind}_id']}, which is not there.")
    order = np.lexsort((image, category))
    rows = [annotations[i] for i in order]
    image, category = image[order], category[order]
    found = read_regions(rows, image, sizes, iou_type, lambda row: f"{file}: annotation {row.get('id', '?')}")
    given = np.array([row.get("area", np.nan) for row in rows], dtype=np.float64)
    area = np.where(np.isnan(given), regions.areas(found), given)
    crowd, marked, difficult = (_flags(rows, key) for key in ("iscrowd", "ignore", "difficult"))
    return Objects(image, category, found, area, crowd, marked, difficult)


def _flags(rows: Iterable[Row], key: str) -> np.ndarray:
    return np.array([bool(row.get(key)) for row in rows], dtype=bool)


def read_regions(
    rows: Sequence[Row], image: np.ndarray, sizes: np.ndarray, iou_type: str, name: Callable[[Row], str]
) -> np.ndarray:
    """The boxes ("bbox") or masks ("segm") of annotations or results; `name` says which one it is that has none."""
    key = "bbox" if iou_type == "bbox" else "segmentation"
    lacking = next((row for row in rows if not row.get(key)), None)
    if lacking is not None:
        raise ValueError(f'{name(lacking)} has no "{key}", which scoring by "{iou_type}" needs.')
    if iou_type == "bbox":
        return _boxes(rows, name)
    encodings = []
    for row, place in zip(rows, image.tolist()):
        try:
            encodings.append(regions.encode_mask(row[key], *sizes[place].tolist()))
        except ValueError as error:
            raise ValueError(f"{name(row)} has {error}.") from error
    return regions.collect(encodings)


def _boxes(rows: Sequence[Row], name: Callable[[Row], str]) -> np.ndarray:
    try:
        found = regions.boxes(row["bbox"] for row in rows)
        if len(found) == len(rows):
            return found
    except (TypeError, ValueError):
        pass
    wrong = next(row for row in rows if not _four_numbers(row["bbox"]))
    raise ValueError(f"{name(wrong)} has the box {wrong['bbox']}; wanted [x, y, width, height] in pixels.")


def _four_numbers(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(isinstance(number, int | float) for number in box)
