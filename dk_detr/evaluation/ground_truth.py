"""Ground truth: an annotation file in COCO's or LVIS's format as arrays. I images, K categories, G objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from dk_detr.annotations import EVALUATION, EVALUATION_MASKS, read_annotation_file
from dk_detr.annotations.encodings import collect, encode_mask, torn
from dk_detr.evaluation import geometry

Row = dict[str, Any]
FREQUENCIES = ("r", "c", "f")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")


@dataclass(frozen=True)
class Objects:
    """What there is to find, sorted by category, then image, then as in the file.

    Attributes:
        image, category: (G,) indices of `GroundTruth.image_ids` and `category_ids`. boxes_or_masks: see `geometry.py`.
        area: (G,) of the mask where the file says so, pixels. crowd: (G,) bool, many things in one.
        ignore: (G,) bool, as the file has it. difficult: (G,) bool, as VOC calls what may be missed.
    """

    image: np.ndarray
    category: np.ndarray
    boxes_or_masks: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    ignore: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.image)

    def take(self, chosen: np.ndarray) -> Objects:
        """Some of them, in the same order: a mask."""
        return Objects(*(getattr(self, column.name)[chosen] for column in fields(self)))


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
        has_masks: every object has polygons or runs in the file, whether they were read or not.
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
    has_masks: bool

    def group(self, image: np.ndarray, category: np.ndarray) -> np.ndarray:
        """One number for an image and a category: ascending by category, then image."""
        return category.astype(np.int64) * len(self.image_ids) + image

    @cached_property
    def images(self) -> frozenset[int]:
        """The ids of the images."""
        return frozenset(self.image_ids.tolist())


def read_ground_truth(annotation_file: str, iou_type: str = "bbox") -> GroundTruth:
    """Read an annotation file; polygons are read for `iou_type` "segm" only, they are most of it.

    Raises: FileNotFoundError; ValueError for a file that is cut short or in another format, for a record that cannot
        be evaluated, and for an annotation without the mask that is to be.
    """
    content = read_annotation_file(annotation_file, EVALUATION if iou_type == "bbox" else EVALUATION_MASKS)
    if not content["categories"]:
        raise ValueError(f"{annotation_file} lists no categories: there is nothing to evaluate.")
    (images, image_ids), (categories, category_ids) = (_by_id(content[key]) for key in ("images", "categories"))
    sizes = np.array([(row.get("height", 0), row.get("width", 0)) for row in images], dtype=np.int64)
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
        all(row.get("segmentation") for row in content["annotations"]),
    )


def index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The places of the wanted ids among ascending ids; -1 where there is none."""
    place = np.searchsorted(ids, wanted)
    known = np.append(ids, -1)[place] == wanted
    return np.where(known & (place < len(ids)), place, -1)


def _by_id(rows: Sequence[Row]) -> tuple[list[Row], np.ndarray]:
    ids = _column(rows, "id")
    order = np.argsort(ids)
    return [rows[i] for i in order], ids[order]


def _column(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([row[key] for row in rows], dtype=np.int64)


def _groups_of(images: Sequence[Row], key: str, category_ids: np.ndarray) -> np.ndarray:
    """The groups that a list of categories in each image names, ascending."""
    lists = [row.get(key, ()) for row in images]
    image = np.repeat(np.arange(len(images)), [len(named) for named in lists])
    category = index_of(category_ids, np.array(list(chain.from_iterable(lists)), dtype=np.int64))
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
    places = [index_of(known, _column(annotations, f"{kind}_id")) for kind, known in zip(("image", "category"), ids)]
    order = np.lexsort(places)
    rows = [annotations[i] for i in order]
    image, category = (place[order] for place in places)
    found = read_boxes_or_masks(rows, image, sizes, iou_type, lambda n: f"{file}: annotation {rows[n].get('id', '?')}")
    given = np.array([row.get("area", np.nan) for row in rows], dtype=np.float64)
    area = np.where(np.isnan(given), geometry.areas(found), given)
    crowd, ignore, difficult = (_flags(rows, key) for key in ("iscrowd", "ignore", "difficult"))
    return Objects(image, category, found, area, crowd, ignore, difficult)


def _flags(rows: Iterable[Row], key: str) -> np.ndarray:
    return np.array([row.get(key, 0) for row in rows], dtype=bool)


def read_boxes_or_masks(
    rows: Sequence[Row], image: np.ndarray, sizes: np.ndarray, iou_type: str, name: Callable[[int], str]
) -> np.ndarray:
    """The boxes ("bbox") or masks ("segm") of annotations or results.

    Args:
        image: (N,) index of each. sizes: (I, 2) height and width of images. name: says which one a number is.

    Raises: ValueError naming the first that has none, or one that cannot be evaluated.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    lacking = next((number for number, row in enumerate(rows) if not row.get(key)), None)
    if lacking is not None:
        raise ValueError(f'{name(lacking)} has no "{key}", which evaluation by "{iou_type}" needs.')
    return _boxes(rows, name) if iou_type == "bbox" else _masks(rows, sizes[image].tolist(), name)


def _masks(rows: Sequence[Row], sizes: Sequence[Sequence[int]], name: Callable[[int], str]) -> np.ndarray:
    encodings = []
    for number, (row, size) in enumerate(zip(rows, sizes)):
        try:
            encodings.append(encode_mask(row["segmentation"], *size))
        except ValueError as error:
            raise ValueError(f"{name(number)} has {error}.") from error
    found = collect(encodings)
    broken = torn(found)
    if broken.any():
        raise ValueError(f"{name(int(np.argmax(broken)))} has a mask whose runs do not fill its image.")
    return found


def _boxes(rows: Sequence[Row], name: Callable[[int], str]) -> np.ndarray:
    try:
        found = geometry.boxes(row["bbox"] for row in rows)
        if len(found) == len(rows) and (np.abs(found) < 1e9).all():
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    wrong = next(number for number, row in enumerate(rows) if not _four_numbers(row["bbox"]))
    raise ValueError(f"{name(wrong)} has the box {rows[wrong]['bbox']}; wanted [x, y, width, height] in pixels.")


def _four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) and abs(n) < 1e9 for n in box)
