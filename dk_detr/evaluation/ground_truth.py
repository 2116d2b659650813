"""Ground truth: an annotation file in COCO's or LVIS's format as arrays. I images, K categories, G objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np

from dk_detr.evaluation import regions
from dk_detr.structures import read_json

Row = dict[str, Any]
FREQUENCIES = ("r", "c", "f")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
SIDES = ("height", "width")
NEEDED = {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


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

    Raises: FileNotFoundError; ValueError for a file that is cut short or in another format, and for an annotation of
        an unknown image or category, or without the box or mask that is to be scored.
    """
    content = _read(annotation_file)
    (images, image_ids), (categories, category_ids) = (
        _by_id(content[key], f'{annotation_file}: "{key}"') for key in ("images", "categories")
    )
    sides = [whole_numbers([row.get(side) or 0 for row in images], f"{annotation_file}: {side}") for side in SIDES]
    sizes = np.stack(sides, axis=1)
    negative, not_exhaustive = (_groups_of(images, key, category_ids, annotation_file) for key in FEDERATED)
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


def whole_numbers(values: Sequence[Any], what: str) -> np.ndarray:
    """Integers as an array. Raises ValueError for text, fractions and whatever else is no id."""
    found = np.array(values) if len(values) else np.empty(0, dtype=np.int64)
    if found.dtype.kind not in "iub" and not (found.dtype.kind == "f" and (found % 1 == 0).all()):
        wrong = next(v for v in values if not (isinstance(v, int | float) and v % 1 == 0 and abs(v) < 2**63))
        raise ValueError(f"{what}: {wrong!r} is no whole number.")
    return found.astype(np.int64)


def index_of(ids: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The places of the wanted ids among ascending ids; -1 where there is none."""
    place = np.searchsorted(ids, wanted)
    known = np.append(ids, -1)[place] == wanted
    return np.where(known & (place < len(ids)), place, -1)


def _read(path: str) -> dict[str, list[Row]]:
    content = read_json(path, "annotation file")
    for key, needed in NEEDED.items():
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list):
            raise ValueError(  # noqa: TRY004  a user's mistake
                f'{path} has no list of "{key}": it is no annotation file in the format of COCO or LVIS.'
            )
        for number, row in enumerate(rows):
            lacking = [field for field in needed if not isinstance(row, dict) or row.get(field) is None]
            if lacking:
                raise ValueError(f'{path}: number {number} of "{key}" has no "{lacking[0]}": {row!r:.80}.')
    if not content["categories"]:
        raise ValueError(f"{path} lists no categories: there is nothing to score.")
    return content  # type: ignore[no-any-return]


def _by_id(rows: Sequence[Row], what: str) -> tuple[list[Row], np.ndarray]:
    ids = whole_numbers([row["id"] for row in rows], f"{what}, id")
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(again):
        raise ValueError(f"{what} has the id {ids[order][again[0]]} more than once.")
    return [rows[i] for i in order], ids[order]


def _groups_of(images: Sequence[Row], key: str, category_ids: np.ndarray, file: str) -> np.ndarray:
    """The groups that a list of categories in each image names, ascending."""
    lists = [row.get(key) or () for row in images]
    image = np.repeat(np.arange(len(images)), [len(named) for named in lists])
    category = index_of(category_ids, whole_numbers(list(chain.from_iterable(lists)), f"{file}: {key}"))
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
    places = []
    for kind, known in zip(("image", "category"), ids):
        wanted = whole_numbers([row[f"{kind}_id"] for row in annotations], f'{file}: "{kind}_id" of an annotation')
        places.append(index := index_of(known, wanted))
        if (index < 0).any():
            row = annotations[int(np.argmin(index))]
            where = f"{file}: annotation {row.get('id', '?')}"
            raise ValueError(f"{where} is of {kind} {row[f'{kind}_id']}, which is not there.")
    order = np.lexsort(places)
    rows = [annotations[i] for i in order]
    image, category = (place[order] for place in places)
    found = read_regions(rows, image, sizes, iou_type, lambda n: f"{file}: annotation {rows[n].get('id', '?')}")
    try:
        given = np.array([row.get("area", np.nan) for row in rows], dtype=np.float64)
    except ValueError as error:
        raise ValueError(f"{file}: an area is no number: {error}.") from error
    area = np.where(np.isnan(given), regions.areas(found), given)
    crowd, marked, difficult = (_flags(rows, key) for key in ("iscrowd", "ignore", "difficult"))
    return Objects(image, category, found, area, crowd, marked, difficult)


def _flags(rows: Iterable[Row], key: str) -> np.ndarray:
    return np.array([bool(row.get(key)) for row in rows], dtype=bool)


def read_regions(
    rows: Sequence[Row], image: np.ndarray, sizes: np.ndarray, iou_type: str, name: Callable[[int], str]
) -> np.ndarray:
    """The boxes ("bbox") or masks ("segm") of annotations or results.

    Args:
        image: (N,) index of each. sizes: (I, 2) height and width of images. name: says which one a number is.

    Raises: ValueError naming the first that has none, or one that cannot be scored.
    """
    key = "bbox" if iou_type == "bbox" else "segmentation"
    lacking = next((number for number, row in enumerate(rows) if not row.get(key)), None)
    if lacking is not None:
        raise ValueError(f'{name(lacking)} has no "{key}", which scoring by "{iou_type}" needs.')
    return _boxes(rows, name) if iou_type == "bbox" else _masks(rows, sizes[image].tolist(), name)


def _masks(rows: Sequence[Row], sizes: Sequence[Sequence[int]], name: Callable[[int], str]) -> np.ndarray:
    encodings = []
    for number, (row, size) in enumerate(zip(rows, sizes)):
        try:
            encodings.append(regions.encode_mask(row["segmentation"], *size))
        except ValueError as error:
            raise ValueError(f"{name(number)} has {error}.") from error
    found = regions.collect(encodings)
    torn = regions.torn(found)
    if torn.any():
        raise ValueError(f"{name(int(np.argmax(torn)))} has a mask whose runs do not fill its image.")
    return found


def _boxes(rows: Sequence[Row], name: Callable[[int], str]) -> np.ndarray:
    try:
        found = regions.boxes(row["bbox"] for row in rows)
        if len(found) == len(rows) and (np.abs(found) < 1e9).all():
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    wrong = next(number for number, row in enumerate(rows) if not _four_numbers(row["bbox"]))
    raise ValueError(f"{name(wrong)} has the box {rows[wrong]['bbox']}; wanted [x, y, width, height] in pixels.")


def _four_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(n, int | float) and abs(n) < 1e9 for n in box)
