"""Single records of an annotation file: what each field must be, and what a program reads there.

Fields are those of COCO and LVIS v1. `null` says what an absent field says. Everything that reads annotation files,
training, evaluation, preparation and check, asks here, so that all read the same.
"""

from array import array
from collections.abc import Collection, Iterator
from reprlib import repr as shown
from typing import Any

from dk_detr.annotations.defects import Kind
from dk_detr.annotations.segmentation import segmentation_faults

Fault = tuple[Kind, str]
FLAGS = ("iscrowd", "ignore", "difficult")
LISTS_OF_IMAGES = ("neg_category_ids", "not_exhaustive_category_ids")
LARGEST_SIDE = 1_000_000  # pixels; no picture is larger
LARGEST_NUMBER = 1e9  # of a box, pixels

_FLAG = {0: 0, 1: 1, "0": 0, "1": 1, "false": 0, "true": 1, "": 0, None: 0}


def flag(value: Any) -> int:
    """A yes or no of a file, 1 or 0: numbers, `true` and `false`, and both as text, which some tools write; `null` is
    no. Raises ValueError for anything else."""
    try:
        return _FLAG[value.strip().lower() if isinstance(value, str) else value]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{shown(value)}; wanted 0 or 1") from error


def whole(value: Any) -> int:
    """A whole number of 64 bits; 3.0 is one, too. Raises ValueError for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63 and value == int(value):
        return int(value)
    raise ValueError(f"{shown(value)}; wanted a whole number")


def is_number(value: Any) -> bool:
    """Whether it is a number that a double can hold, and not NaN or infinite."""
    try:
        return not isinstance(value, bool) and bool(abs(value) <= 1.7e308)
    except (TypeError, OverflowError):
        return False


def file_name_of(image: Any) -> str | None:
    """Below the image folder: "file_name", or, where LVIS gives none, the last two parts of "coco_url"."""
    if not isinstance(image, dict):
        return None
    name, url = image.get("file_name"), image.get("coco_url")
    if isinstance(name, str) and name:
        return name
    return "/".join(url.split("/")[-2:]) if not name and isinstance(url, str) and url else None


def image_faults(record: Any, optional: Collection[str] = ()) -> Iterator[Fault]:
    """What is wrong with an image. Args: optional: fields that may be absent, of "file_name", "width", "height"."""
    if not isinstance(record, dict):
        yield _no_object(record)
        return
    yield from _ids(record, ("id",))
    for side in ("width", "height"):
        if record.get(side) is not None or side not in optional:
            yield from _side(record, side)
    nameless = record.get("file_name") is None and record.get("coco_url") is None
    if file_name_of(record) is None and not (nameless and "file_name" in optional):
        wanted = "and it has no coco_url; wanted a path below the images"
        yield Kind.MALFORMED_RECORD, f"its file_name is {_of(record, 'file_name')}, {wanted}"
    for name in LISTS_OF_IMAGES:
        if not are_ids(record.get(name)):
            yield Kind.MALFORMED_RECORD, f"its {name} is {_of(record, name)}; wanted a list of category ids"


def annotation_faults(record: Any, optional: Collection[str] = ()) -> Iterator[Fault]:
    """What is wrong with an annotation. Args: optional: fields that may be absent, of "id", "bbox"."""
    if not isinstance(record, dict):
        yield _no_object(record)
        return
    ids = [key for key in ("id", "image_id", "category_id") if not (key in optional and record.get(key) is None)]
    yield from _ids(record, ids)
    if not _is_box(record.get("bbox")) and not (record.get("bbox") is None and "bbox" in optional):
        yield Kind.MALFORMED_RECORD, f"its bbox is {_of(record, 'bbox')}; wanted four numbers x, y, width, height"
    yield from segmentation_faults(record.get("segmentation"))
    for key in FLAGS:
        try:
            flag(record.get(key))
        except ValueError as error:
            yield Kind.MALFORMED_RECORD, f"its {key} is {error}"
    yield from _area(record.get("area"))


def category_faults(record: Any, optional: Collection[str] = ()) -> Iterator[Fault]:
    """What is wrong with a category. Args: optional: fields that may be absent, of "name"."""
    if not isinstance(record, dict):
        yield _no_object(record)
        return
    yield from _ids(record, ("id",))
    name = record.get("name")
    if name is None and "name" in optional:
        return
    if not isinstance(name, str) or not name.strip():
        yield Kind.MALFORMED_RECORD, f"its name is {_of(record, 'name')}; wanted a word"
    elif name != name.strip():
        yield Kind.PADDED_NAME, f"its name {shown(name)} has spaces around it; rename it"


FAULTS = {"images": image_faults, "annotations": annotation_faults, "categories": category_faults}
"""By the list of the file."""


def are_ids(values: Any) -> bool:
    """Whether it is a list of whole numbers, or nothing."""
    try:
        return values is None or (isinstance(values, list) and array("q", values) is not None)
    except (TypeError, OverflowError):
        return False


def settle(which: str, record: dict[str, Any]) -> None:
    """Write into a sound record what was read: flags as 0 or 1, ids and sides as integers, no `null`.

    Args:
        which: "images", "annotations" or "categories".
    """
    for key in [key for key, value in record.items() if value is None]:
        del record[key]
    for key in _INTEGERS[which]:
        if key in record:
            record[key] = whole(record[key])
    for key in FLAGS if which == "annotations" else ():
        if key in record:
            record[key] = flag(record[key])


_INTEGERS = {
    "images": ("id", "width", "height"),
    "annotations": ("id", "image_id", "category_id"),
    "categories": ("id",),
}


def _no_object(record: Any) -> Fault:
    return Kind.MALFORMED_RECORD, f"it is {shown(record)}; wanted an object"


def _ids(record: dict[str, Any], keys: Collection[str]) -> Iterator[Fault]:
    for key in keys:
        try:
            whole(record.get(key))
        except ValueError:
            yield Kind.MALFORMED_RECORD, f"its {key} is {_of(record, key)}; wanted a whole number"


def _side(record: dict[str, Any], side: str) -> Iterator[Fault]:
    try:
        pixels = whole(record.get(side))
    except ValueError:
        yield Kind.MALFORMED_RECORD, f"its {side} is {_of(record, side)}; wanted a whole number"
        return
    if not 0 < pixels <= LARGEST_SIDE:
        yield Kind.MALFORMED_RECORD, f"its {side} is {pixels}; wanted a number of pixels"


def _is_box(box: Any) -> bool:
    """Four numbers, of which it is said elsewhere whether they are finite."""
    try:
        return isinstance(box, list) and len(box) == 4 and all(isinstance(float(n), float) for n in map(abs, box))
    except (TypeError, OverflowError):
        return False


def _area(area: Any) -> Iterator[Fault]:
    if area is None:
        return
    if not isinstance(area, int | float):
        yield Kind.MALFORMED_RECORD, f"its area is {shown(area)}; wanted a finite number"
    elif not is_number(area):
        yield Kind.NOT_FINITE, f"its area is {shown(area)}; wanted a finite number"
    elif area < 0:
        yield Kind.MALFORMED_RECORD, f"its area is {shown(area)}; wanted a number of pixels"


def _of(record: dict[str, Any], key: str) -> str:
    return shown(record[key]) if key in record else "missing"
