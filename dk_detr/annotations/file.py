"""An annotation file in memory, read by one reader for all that use it, and refused where it would be misread."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from dk_detr.annotations.content import Content
from dk_detr.annotations.defects import Defect, Kind
from dk_detr.annotations.reader import Reader, items_of_content
from dk_detr.annotations.records import category_faults, file_name_of, image_faults, settle
from dk_detr.annotations.relations import (
    boxes,
    boxes_elsewhere,
    duplicates,
    negative_boxes,
    outlines,
    unknown_references,
)
from dk_detr.utils import read_json

logger = logging.getLogger(__name__)

_AMBIGUOUS = frozenset({
    Kind.MALFORMED_RECORD, Kind.NOT_FINITE, Kind.DUPLICATE_IMAGE_ID, Kind.DUPLICATE_CATEGORY_ID, Kind.UNKNOWN_IMAGE,
    Kind.UNKNOWN_CATEGORY,
})  # fmt: skip


ANYWHERE = float("inf")  # how far a box may reach out of its image, where readers clip it


@dataclass(frozen=True)
class Use:
    """What a file is read for.

    Attributes:
        refused: kinds of defects that it must not have. told: kinds that are logged, for they may be meant.
        opens_images: images need a file name, a width and a height.
    """

    refused: frozenset[Kind]
    told: frozenset[Kind] = frozenset()
    opens_images: bool = False


OPTIONAL = frozenset({"id", "file_name", "width", "height"})  # what some use can do without, see `Reader`
EVALUATION = Use(_AMBIGUOUS)
EVALUATION_MASKS = Use(EVALUATION.refused | {Kind.FAR_POLYGON})
_TWICE = frozenset({Kind.DUPLICATE_FILE_NAME})  # each of the two lacks the objects of the other
SPLITTING = Use(_AMBIGUOUS | {Kind.DUPLICATE_CATEGORY_NAME}, _TWICE, opens_images=True)
TRAINING = Use(
    SPLITTING.refused | {Kind.PADDED_NAME, Kind.SAME_WORDS, Kind.BOX_WITHOUT_AREA, Kind.BOX_OUT_OF_IMAGE},
    _TWICE,
    opens_images=True,
)


def read_annotation_file(path: str, use: Use) -> dict[str, Any]:
    """What a file in COCO's or LVIS's format holds: "images", "annotations", "categories", and whatever else it has.

    A file is read once, and again when it has changed. Its records are sound: ids and sides are integers, "iscrowd",
    "ignore" and "difficult" are 0 or 1, `null` is absent; see records.py.

    Raises: FileNotFoundError; ValueError for a file that is not whole or in another format, or that has a defect which
        this use refuses: the first is named, with its image and annotation.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no annotation file {path}.")
    status = os.stat(path)
    content, defects = _read(path, status.st_size, status.st_mtime_ns)
    refuse([defect for defect in defects if defect.kind in use.refused])
    if use.opens_images:
        refuse(list(_lacking(content["images"], path)))
    told = [defect for defect in defects if defect.kind in use.told]
    if told:
        logger.warning("%s%s", told[0], f" ({len(told)} such)" if told[1:] else "")
    return content


def read_categories(path: str) -> list[dict[str, Any]]:
    """Categories of an annotation file, or of a file that is a list of them, by ascending id; they have ids and names.

    Raises: FileNotFoundError; ValueError naming what is no category, or the second of two with one id.
    """
    content = read_json(path, "annotation file")
    categories = content.get("categories") if isinstance(content, dict) else content
    if not isinstance(categories, list) or not categories:
        raise ValueError(f"{path} lists no categories with id and name.")
    first: dict[int, str] = {}
    for number, category in enumerate(categories, start=1):
        faults = [fault for kind, fault in category_faults(category) if kind is Kind.MALFORMED_RECORD]
        if faults:
            raise ValueError(f"{path}, number {number} of categories: {faults[0]}.")
        settle("categories", category)
        if first.setdefault(category["id"], category["name"]) is not category["name"]:
            raise ValueError(f'{path}: "{category["name"]}" has the id {category["id"]} of "{first[category["id"]]}".')
    return sorted(categories, key=lambda category: category["id"])


def refuse(defects: list[Defect]) -> None:
    """Raises ValueError with the first defect, if there is one, and how to see the others."""
    if defects:
        more = f" Defects that follow: {len(defects) - 1}." if defects[1:] else ""
        check = f"`tools/prepare_dataset.py check --json {defects[0].file} --images DIR` lists all."
        raise ValueError(f"{str(defects[0]).rstrip('.')}.{more} {check}")


@lru_cache(maxsize=2)
def _read(path: str, size: int, changed: int) -> tuple[dict[str, Any], tuple[Defect, ...]]:
    """Content and defects, once for all uses; `size` and `changed` are those of the file, so that it is read again
    after a change."""
    content = read_json(path, "annotation file")
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  a user's mistake
            f"{path} holds a {type(content).__name__}, no object with images, annotations and categories: it is not in "
            "LVIS or COCO format."
        )
    reader = Reader(path, OPTIONAL)
    table = reader.read_from(items_of_content(content))
    defects = [replace(d, file_name=d.file_name or table.file_name_of(d.image_id)) for d in reader.defects]
    if not any(defect.kind in _AMBIGUOUS for defect in defects):
        for which, records in (("images", content["images"]), ("categories", content["categories"])):
            for record in records:
                settle(which, record)
        for record in reader.unusual:
            settle("annotations", record)
    return content, (*defects, *_defects_of(table))


def _lacking(images: list[dict[str, Any]], path: str) -> Iterator[Defect]:
    """What sound images lack of the fields in OPTIONAL."""
    for image in images:
        for kind, fault in image_faults(image):
            yield Defect(kind, fault, path, image["id"], file_name_of(image))


def _defects_of(table: Content) -> Iterator[Defect]:
    """Of records among one another."""
    among = (duplicates, unknown_references, outlines)
    of_boxes = (partial(boxes, tolerance=ANYWHERE), negative_boxes, boxes_elsewhere)
    return chain.from_iterable(check(table) for check in (*among, *of_boxes))
