"""From an annotation file to `Content`; records that lack a field, or have a wrong one, are told apart here."""

import struct
from array import array
from collections.abc import Iterator
from itertools import repeat
from reprlib import repr as shown
from typing import Any

import numpy as np

from dk_detr.data.check.content import ANNOTATION, IMAGE, Content, ImageList
from dk_detr.data.check.defects import Defect, Kind
from dk_detr.data.check.segmentation import segmentation_faults
from dk_detr.data.streaming import LISTS, read_items

_ID, _IMAGE, _ANNOTATION = struct.Struct("<q"), struct.Struct("<qqq"), struct.Struct("<qqqq4d")
_DOES_NOT_FIT = (KeyError, IndexError, TypeError, ValueError, OverflowError, struct.error)


class Reader:
    """Reads one file; `defects` are those of single records, found on the way, still without the images' file names."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.defects: list[Defect] = []
        self.counts = dict.fromkeys(LISTS, 0)
        self._images, self._annotations, self._categories = bytearray(), bytearray(), bytearray()
        self._file_names: list[str | None] = []
        self._category_names: list[str | None] = []
        self._negatives, self._not_exhaustive = _Pairs("neg_category_ids"), _Pairs("not_exhaustive_category_ids")

    def read(self) -> Content:
        """The whole file. Raises ValueError if it is no whole file in LVIS or COCO format."""
        take = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        absent = set(LISTS)
        for key, record, in_list in read_items(self.path):
            if in_list and key in take:
                self.counts[key] += 1
                take[key](record)
            elif key in take and record != []:
                raise ValueError(f'{self.path}: its "{key}" is {shown(record)}, no list: not in LVIS or COCO format.')
            absent.discard(key)
        if absent:
            raise ValueError(f"{self.path} has no {sorted(absent)}: it is not in LVIS or COCO format.")
        if not self.counts["images"]:
            raise ValueError(f"{self.path} lists no images.")
        return self._content()

    def _content(self) -> Content:
        return Content(
            self.path,
            np.frombuffer(self._images, IMAGE),
            self._file_names,
            np.frombuffer(self._annotations, ANNOTATION),
            np.frombuffer(self._categories, "<i8"),
            self._category_names,
            self._negatives.as_list(),
            self._not_exhaustive.as_list(),
        )

    # ---- annotations ----

    def _annotation(self, record: Any) -> None:
        try:
            x, y, w, h = record["bbox"]
            ids = record["id"], record["image_id"], record["category_id"]
            self._annotations += _ANNOTATION.pack(*ids, bool(record.get("ignore")), x, y, w, h)
        except _DOES_NOT_FIT:
            self._blame(record, "annotations", _wrong_annotation(record))
            return
        segmentation = record.get("segmentation")
        if segmentation:
            for kind, message in segmentation_faults(segmentation):
                self._add(kind, record, message)
        if record.get("iscrowd", 0) not in (0, 1):
            self._add(Kind.MALFORMED_RECORD, record, f"its iscrowd is {shown(record['iscrowd'])}; wanted 0 or 1")
        if not _is_finite(record.get("area", 0)):
            kind = Kind.NOT_FINITE if isinstance(record["area"], int | float) else Kind.MALFORMED_RECORD
            self._add(kind, record, f"its area is {shown(record['area'])}; wanted a finite number")

    # ---- images ----

    def _image(self, record: Any) -> None:
        faults = list(_wrong_image(record))
        for fault in faults:
            self._blame(record, "images", fault)
        if not _fits(record, "id"):
            return
        row = len(self._file_names)
        sized = _fits(record, "width") and _fits(record, "height")
        size = (record["width"], record["height"]) if sized else (0, 0)
        self._images += _IMAGE.pack(record["id"], *size)
        self._file_names.append(file_name_of(record))
        for pairs in (self._negatives, self._not_exhaustive):
            pairs.add(row, record.get(pairs.name) or ())

    # ---- categories ----

    def _category(self, record: Any) -> None:
        named = isinstance(record, dict) and isinstance(record.get("name"), str) and record["name"].strip()
        if not _fits(record, "id"):
            self._blame(record, "categories", _wrong_number(record, "id"))
            return
        if not named:
            self._blame(record, "categories", f"its name is {_of(record, 'name')}; wanted a word")
        self._categories += _ID.pack(record["id"])
        self._category_names.append(record["name"] if named else None)

    # ---- what is wrong ----

    def _blame(self, record: Any, which: str, fault: str) -> None:
        """A malformed record is found by its id if it has one, else by its number in the list."""
        number = self.counts[which]
        key = {"images": "image_id", "annotations": "annotation_id", "categories": "category_id"}[which]
        where: dict[str, Any] = {key: record["id"]} if _fits(record, "id") else {}
        if which == "annotations" and _fits(record, "image_id"):
            where["image_id"] = record["image_id"]
        if which == "images":
            where["file_name"] = file_name_of(record)
        place = "" if key in where else f"number {number} of {which}: "
        self.defects.append(Defect(Kind.MALFORMED_RECORD, place + fault, self.path, **where))

    def _add(self, kind: Kind, record: dict[str, Any], message: str) -> None:
        self.defects.append(Defect(kind, message, self.path, record["image_id"], None, record["id"]))


class _Pairs:
    """Collects (row of an image, category id) of one of the lists that an image may have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows, self.categories = array("q"), array("q")

    def add(self, row: int, categories: Any) -> None:
        try:
            numbers = array("q", categories)
        except _DOES_NOT_FIT:
            return  # `_wrong_image` has said so
        self.categories.extend(numbers)
        self.rows.extend(repeat(row, len(numbers)))

    def as_list(self) -> ImageList:
        return ImageList(self.name, np.array(self.rows, np.int64), np.array(self.categories, np.int64))


def file_name_of(image: Any) -> str | None:
    """Below the image folder: "file_name", or, where LVIS gives none, the last two parts of "coco_url"."""
    if not isinstance(image, dict):
        return None
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str) and name:
        return name
    return "/".join(url.split("/")[-2:]) if not name and isinstance(url, str) and url else None


def _wrong_image(record: Any) -> Iterator[str]:
    if not _fits(record, "id"):
        yield _wrong_number(record, "id")
        return
    for side in ("width", "height"):
        if not _fits(record, side):
            yield _wrong_number(record, side)
        elif record[side] <= 0:
            yield f"its {side} is {record[side]}; wanted a number of pixels"
    if file_name_of(record) is None:
        yield f"its file_name is {_of(record, 'file_name')}, and it has no coco_url; wanted a path below the images"
    for name in ("neg_category_ids", "not_exhaustive_category_ids"):
        if record.get(name) and not _are_ids(record[name]):
            yield f"its {name} is {_of(record, name)}; wanted a list of category ids"


def _wrong_annotation(record: Any) -> str:
    for key in ("id", "image_id", "category_id"):
        if not _fits(record, key):
            return _wrong_number(record, key)
    return f"its bbox is {_of(record, 'bbox')}; wanted four numbers x, y, width, height"


def _wrong_number(record: Any, key: str) -> str:
    if not isinstance(record, dict):
        return f"it is {shown(record)}; wanted an object"
    return f"its {key} is {_of(record, key)}; wanted a whole number"


def _of(record: dict[str, Any], key: str) -> str:
    return shown(record[key]) if key in record else "missing"


def _fits(record: Any, key: str) -> bool:
    """Whether the record has a whole number of 64 bits there."""
    try:
        _ID.pack(record[key])
    except _DOES_NOT_FIT:
        return False
    return True


def _are_ids(values: Any) -> bool:
    try:
        return isinstance(values, list) and len(array("q", values)) == len(values)
    except _DOES_NOT_FIT:
        return False


def _is_finite(value: Any) -> bool:
    try:
        return bool(abs(value) < float("inf"))
    except (TypeError, OverflowError):
        return False
