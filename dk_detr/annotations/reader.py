"""From an annotation file to `Content`; records that lack a field, or have a wrong one, are told apart here."""

import struct
from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import repeat
from reprlib import repr as shown
from typing import Any

import numpy as np

from dk_detr.annotations.content import ANNOTATION, IMAGE, NO_ID, Content, ImageList
from dk_detr.annotations.defects import Defect, Kind
from dk_detr.annotations.records import (
    LARGEST_SIDE,
    LISTS_OF_IMAGES,
    annotation_faults,
    are_ids,
    category_faults,
    file_name_of,
    flag,
    image_faults,
    is_number,
    whole,
)
from dk_detr.annotations.segmentation import outline_of, segmentation_faults
from dk_detr.annotations.streaming import LISTS, Item, read_items

_ID, _IMAGE, _ANNOTATION = struct.Struct("<q"), struct.Struct("<qqq"), struct.Struct("<qqqii4d3d")
_DOES_NOT_FIT = (KeyError, IndexError, TypeError, ValueError, OverflowError, struct.error)
_KEYS = {"images": "image_id", "annotations": "annotation_id", "categories": "category_id"}
NO_NUMBER = float("nan")


class Reader:
    """Reads one file; `defects` are those of single records, found on the way, still without the images' file names.

    Args:
        path: of the file. optional: fields that may be absent: "id" of annotations, "file_name", "width", "height" of
            images.

    Attributes:
        counts: records of each list. unusual: annotations that say something in another way than nearly all.
    """

    def __init__(self, path: str, optional: Collection[str] = ()) -> None:
        self.path, self.optional = path, optional
        self.defects: list[Defect] = []
        self.unusual: list[Any] = []
        self.counts = dict.fromkeys(LISTS, 0)
        self._images, self._annotations, self._categories = bytearray(), bytearray(), bytearray()
        self._file_names: list[str | None] = []
        self._category_names: list[str | None] = []
        self._lists = [_Pairs(name) for name in LISTS_OF_IMAGES]

    def read(self) -> Content:
        """The whole file, item by item. Raises ValueError if it is no whole file in LVIS or COCO format."""
        content = self.read_from(read_items(self.path))
        if not self.counts["images"]:
            raise ValueError(f"{self.path} lists no images.")
        return content

    def read_from(self, items: Iterable[Item]) -> Content:
        """The same of a file whose items are at hand."""
        take = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        absent = set(LISTS)
        for key, record, in_list in items:
            if in_list and key in take:
                self.counts[key] += 1
                take[key](record)
            elif key in take and record != []:
                raise ValueError(f'{self.path}: its "{key}" is {shown(record)}, no list: not in LVIS or COCO format.')
            absent.discard(key)
        if absent:
            raise ValueError(f"{self.path} has no {sorted(absent)}: it is not in LVIS or COCO format.")
        return self._content()

    def _content(self) -> Content:
        return Content(
            self.path,
            np.frombuffer(self._images, IMAGE),
            self._file_names,
            np.frombuffer(self._annotations, ANNOTATION),
            np.frombuffer(self._categories, "<i8"),
            self._category_names,
            *(pairs.as_list() for pairs in self._lists),
        )

    def _annotation(self, record: Any) -> None:
        packed = _ordinary(record)
        if packed is None:
            self.unusual.append(record)
        faults = segmentation_faults(record.get("segmentation")) if packed else annotation_faults(record, self.optional)
        for fault in faults:
            self._blame("annotations", record, *fault)
        self._annotations += packed or _unusual(record)

    def _image(self, record: Any) -> None:
        for fault in image_faults(record, self.optional):
            self._blame("images", record, *fault)
        number = _number(record, "id")
        if number is None:
            return
        row = len(self._file_names)
        sides = [_number(record, side) for side in ("width", "height")]
        self._images += _IMAGE.pack(number, *(side if side and side <= LARGEST_SIDE else 0 for side in sides))
        self._file_names.append(file_name_of(record))
        for pairs in self._lists:
            pairs.add(row, record.get(pairs.name))

    def _category(self, record: Any) -> None:
        faults = list(category_faults(record))
        for fault in faults:
            self._blame("categories", record, *fault)
        number = _number(record, "id")
        if number is not None:
            named = not any(kind is Kind.MALFORMED_RECORD for kind, _ in faults)
            self._categories += _ID.pack(number)
            self._category_names.append(record["name"] if named else None)

    def _blame(self, which: str, record: Any, kind: Kind, fault: str) -> None:
        """A record is found by its id if it has one, else by its number in the list."""
        where: dict[str, Any] = {_KEYS[which]: _number(record, "id")}
        if which == "annotations":
            where["image_id"] = _number(record, "image_id")
        if which == "images":
            where["file_name"] = file_name_of(record)
        place = f"number {self.counts[which]} of {which}: " if where[_KEYS[which]] is None else ""
        self.defects.append(Defect(kind, place + fault, self.path, **where))


class _Pairs:
    """Collects (row of an image, category id) of one of the lists that an image may have."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows, self.categories = array("q"), array("q")

    def add(self, row: int, categories: Any) -> None:
        if categories and are_ids(categories):  # else the image was blamed
            self.categories.extend(array("q", categories))
            self.rows.extend(repeat(row, len(categories)))

    def as_list(self) -> ImageList:
        return ImageList(self.name, np.array(self.rows, np.int64), np.array(self.categories, np.int64))


def items_of_content(content: Mapping[str, Any]) -> Iterator[Item]:
    """The items of a file that is in memory."""
    for key, value in content.items():
        if isinstance(value, list) and value:
            yield from (Item(key, element, in_list=True) for element in value)
        else:
            yield Item(key, value, in_list=False)


def _ordinary(record: Any) -> bytes | None:
    """One `ANNOTATION` where all but the mask is as in nearly all annotations, so that no question need be asked."""
    try:
        x, y, w, h = record["bbox"]
        ignored, crowd, area = record.get("ignore", 0), record.get("iscrowd", 0), record.get("area", 0)
        number, image, category = record["id"], record["image_id"], record["category_id"]
        if not (type(number) is type(image) is type(category) is int):
            return None
        if not (ignored in (0, 1) and crowd in (0, 1) and record.get("difficult", 0) in (0, 1) and 0 <= area < 1e300):
            return None
        return _ANNOTATION.pack(
            number, image, category, ignored, crowd, x, y, w, h, area if "area" in record else NO_NUMBER,
            *outline_of(record.get("segmentation")),
        )  # fmt: skip
    except (*_DOES_NOT_FIT, AttributeError):
        return None


def _unusual(record: Any) -> bytes:
    """One `ANNOTATION` of whatever can be read of it; nothing where ids or box cannot be, of which faults were said."""
    try:
        ids = [NO_ID if record.get("id") is None else whole(record["id"])]
        ids += [whole(record[key]) for key in ("image_id", "category_id")]
        flags = [_flag(record, key) for key in ("ignore", "iscrowd")]
        area = record["area"] if is_number(record.get("area")) else NO_NUMBER
        return _ANNOTATION.pack(*ids, *flags, *record["bbox"], area, *outline_of(record.get("segmentation")))
    except (*_DOES_NOT_FIT, AttributeError):
        return b""


def _flag(record: Any, key: str) -> int:
    try:
        return flag(record.get(key))
    except ValueError:
        return 0


def _number(record: Any, key: str) -> int | None:
    try:
        return whole(record[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
