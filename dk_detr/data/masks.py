"""The masks of training records, looked at before training: a loader would meet a broken one hours later."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from dk_detr.annotations.encodings import collect, encode_mask, torn
from dk_detr.annotations.segmentation import is_far, outline_of
from dk_detr.utils import require

logger = logging.getLogger(__name__)

Record = dict[str, Any]
FORMATS = ("polygon", "bitmask")
NOTHING = "without a polygon of three points or a mask, and MODEL.MASK_ON learns masks"
WAY_OUT = "Draw it, drop it, or set MODEL.MASK_ON False."


def check_masks(records: list[Record], mask_format: str) -> None:
    """See that each object has a mask that can be drawn.

    Polygons of fewer than three points are left out, as Detectron2 does, and the first is named in the log. Run lengths
    become those of `pycocotools`. Crowds, which are not trained on, may have what they like.

    Args:
        records: changed in place. mask_format: INPUT.MASK_FORMAT: "polygon", or "bitmask", which takes run lengths too.

    Raises: ValueError that names image and annotation: of an object without a mask, of a polygon far out of its image,
        of run lengths of another size, that do not fill the image, or where polygons are wanted.
    """
    require("INPUT.MASK_FORMAT", mask_format, FORMATS)
    dropped, runs = [], []
    for record, annotation in _objects(records):
        outline = annotation.get("segmentation")
        if isinstance(outline, list):
            drawn = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
            dropped += [_name(record, annotation)] * (len(outline) - len(drawn))
            annotation["segmentation"] = outline = drawn
        if not outline:
            raise ValueError(f"{_name(record, annotation)} {NOTHING}. {WAY_OUT}")
        if isinstance(outline, dict):
            annotation["segmentation"] = _run_lengths(record, annotation, mask_format)
            runs.append((record, annotation))
        elif is_far(*outline_of(outline), record["width"], record["height"]):
            size = f"{record['width']} x {record['height']} pixels of the image"
            raise ValueError(f"{_name(record, annotation)} with a polygon far out of the {size}. {WAY_OUT}")
    if dropped:
        logger.warning(
            "%d polygons have fewer than three points, or half a point, and are left out. The first: %s.",
            len(dropped), dropped[0],
        )  # fmt: skip
    _refuse_torn(runs)


def _objects(records: list[Record]) -> Iterator[tuple[Record, Record]]:
    for record in records:
        for annotation in record["annotations"]:
            if not annotation.get("iscrowd"):
                yield record, annotation


def _name(record: Record, annotation: Record) -> str:
    number = annotation.get("id")
    told = "" if number is None else f" (annotation {number})"
    return f"Image {record['file_name']} (id {record['image_id']}) has an object at {annotation['bbox']}{told}"


def _run_lengths(record: Record, annotation: Record, mask_format: str) -> dict[str, Any]:
    if mask_format == "polygon":
        raise ValueError(
            f'{_name(record, annotation)} with run lengths for a mask, and INPUT.MASK_FORMAT is "polygon": set it to '
            '"bitmask", which takes both.'
        )
    try:
        return encode_mask(annotation["segmentation"], record["height"], record["width"])
    except ValueError as error:
        raise ValueError(f"{_name(record, annotation)} with {error}. {WAY_OUT}") from error


def _refuse_torn(runs: list[tuple[Record, Record]]) -> None:
    broken = np.flatnonzero(torn(collect(annotation["segmentation"] for _, annotation in runs)))
    if len(broken):
        raise ValueError(f"{_name(*runs[broken[0]])} with a mask whose runs do not fill its image. {WAY_OUT}")
