"""Boxes and masks: their areas and their overlaps, in the arithmetic of `pycocotools`.

A set of either is one array: boxes (N, 4) float64, xywh in pixels; or masks (N,) of run-length encodings, the dicts
of `pycocotools` with "counts" in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np
from pycocotools import mask as masks

from dk_detr.annotations.segmentation import is_far, outline_of

AT_ONCE = 255  # masks; with NumPy 2, the area of more fails in pycocotools 2.0.11


def boxes(rows: Iterable[Any]) -> np.ndarray:
    """Boxes from rows of four numbers."""
    return np.array(list(rows), dtype=np.float64).reshape(-1, 4)


def encode_mask(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A run-length encoding from what COCO's files hold: polygons, or runs, compressed or not.

    Raises: ValueError, an ending for "… has", for anything else.
    """
    if not (height and width):
        raise ValueError("a mask in an image of which the file does not tell height and width")
    if isinstance(segmentation, list):
        if is_far(*outline_of(segmentation), width, height):
            raise ValueError(f"a polygon that lies far out of its image of {width} x {height} pixels")
        return _merged([_numbers(polygon, "a polygon that is") for polygon in segmentation], height, width)
    try:
        given, counts = list(segmentation["size"]), segmentation["counts"]
    except (KeyError, TypeError) as error:
        raise ValueError("a segmentation that is neither polygons nor run-length encoded") from error
    size = [height, width]
    if given != size:
        raise ValueError(f"a mask of {given} (height, width) in an image of {size}")
    if isinstance(counts, list):
        if min(_numbers(counts, "runs that are")) < 0 or sum(counts) != height * width:
            raise ValueError("a mask whose runs do not fill its image")
        return masks.frPyObjects({"size": size, "counts": counts}, height, width)
    return {"size": size, "counts": counts if isinstance(counts, bytes) else str(counts).encode()}


def _numbers(values: Any, what: str) -> list[float]:
    if isinstance(values, list) and values and all(isinstance(n, int | float) and isfinite(n) for n in values):
        return values
    raise ValueError(f"{what} no list of numbers")


def _merged(polygons: list[list[float]], height: int, width: int) -> dict[str, Any]:
    if len(polygons[0]) < 6:  # of the others `pycocotools` takes any
        raise ValueError(f"a polygon of {len(polygons[0])} numbers; three points have 6")
    return masks.merge(masks.frPyObjects(polygons, height, width))


def encode_predicted(predicted: Any, height: int, width: int) -> np.ndarray:
    """Masks from (N, H, W) bool, or from N run-length encodings. Raises ValueError, an ending for "… has"."""
    if isinstance(predicted, np.ndarray):
        if predicted.dtype != bool or predicted.ndim != 3:
            raise ValueError(f"pred_masks of {predicted.dtype} {predicted.shape}; wanted bool (N, height, width)")
        predicted = [masks.encode(np.asfortranarray(bitmap).view(np.uint8)) for bitmap in predicted]
    found = collect(encode_mask(one, height, width) for one in predicted)
    if torn(found).any():
        raise ValueError("a mask whose runs do not fill the image")
    return found


def collect(encodings: Iterable[dict[str, Any]]) -> np.ndarray:
    """Masks as an array."""
    found = list(encodings)
    masks_of_all = np.empty(len(found), dtype=object)
    masks_of_all[:] = found
    return masks_of_all


def torn(encodings: np.ndarray) -> np.ndarray:
    """(N,) bool: masks whose runs do not fill the image. `pycocotools` never returns from the overlap of such a one."""
    portions = [_torn(encodings[i : i + AT_ONCE]) for i in range(0, len(encodings), AT_ONCE)]
    return np.concatenate([np.empty(0, dtype=bool), *portions])


def _torn(encodings: np.ndarray) -> np.ndarray:
    counts = [mask["counts"] for mask in encodings]
    letters = np.frombuffer(b"".join(counts), dtype=np.uint8).astype(np.int64) - 48  # five bits, and "more follow"
    ends = np.cumsum([len(text) for text in counts])
    wrong = np.array([not text or bool((text[-1] - 48) & 32) for text in counts])
    wrong[np.searchsorted(ends, np.flatnonzero((letters < 0) | (letters > 63)), side="right")] = True
    if wrong.any():
        return wrong
    last = np.flatnonzero(letters & 32 == 0)  # letter of each number; the lowest bits come first
    first = np.append(0, last[:-1] + 1)
    shift = 5 * (np.arange(len(letters)) - np.repeat(first, last - first + 1))
    numbers = np.add.reduceat((letters & 31) << shift, first)
    numbers -= (letters[last] & 16) << (shift[last] + 1)  # the highest bit is a sign
    # From the fourth number on, each is the difference to the run two places before. So a number is part of its own run
    # and of every second run after it.
    owner = np.searchsorted(ends, last, side="right")
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    times = np.where(rank == 0, 1, (np.bincount(owner)[owner] + 1 - rank) // 2)
    return np.bincount(owner, numbers * times) != [height * width for height, width in (m["size"] for m in encodings)]


def areas(boxes_or_masks: np.ndarray) -> np.ndarray:
    """(N,) pixels. Of masks the masks' own, not their boxes': `lvis` and `pycocotools` take the box where a result has
    both, which sorts thin things into the wrong range of areas."""
    if boxes_or_masks.dtype != object:
        return boxes_or_masks[:, 2] * boxes_or_masks[:, 3]
    portions = [masks.area(list(boxes_or_masks[i : i + AT_ONCE])) for i in range(0, len(boxes_or_masks), AT_ONCE)]
    return np.concatenate([np.empty(0), *portions])


def overlaps(
    found: np.ndarray, objects: np.ndarray, crowd: np.ndarray, detection: np.ndarray, thing: np.ndarray
) -> np.ndarray:
    """IoU of P pairs; with a crowd, the share of the detection that lies in it.

    Args:
        found, objects: N and G boxes or masks. crowd: (G,) bool. detection, thing: (P,) rows of both. Successive
            detections are paired with the same objects, or with wholly different ones.
    """
    of_masks = found.dtype == object
    return (_mask_overlaps if of_masks else _box_overlaps)(found, objects, crowd, detection, thing)


def _box_overlaps(
    found: np.ndarray, objects: np.ndarray, crowd: np.ndarray, detection: np.ndarray, thing: np.ndarray
) -> np.ndarray:
    (x, y, w, h), (X, Y, W, H) = found[detection].T, objects[thing].T
    width, height = np.minimum(w + x, W + X) - np.maximum(x, X), np.minimum(h + y, H + Y) - np.maximum(y, Y)
    both, own = width * height, w * h
    union = np.where(crowd[thing], own, own + W * H - both)
    meet = (width > 0) & (height > 0)
    return np.divide(both, union, out=np.zeros_like(both), where=meet)


def _mask_overlaps(
    found: np.ndarray, objects: np.ndarray, crowd: np.ndarray, detection: np.ndarray, thing: np.ndarray
) -> np.ndarray:
    """Detections that are paired with the same objects are compared at once, so that each mask is decoded once:
    decoding takes longer than comparing."""
    starts = np.flatnonzero(np.diff(detection, prepend=-1))
    blocks = starts[np.flatnonzero(np.diff(thing[starts], prepend=-1))]
    answers = [np.empty(0)]
    for pairs in np.split(np.arange(len(thing)), blocks[1:]):
        rows, things = np.unique(detection[pairs]), np.unique(thing[pairs])
        iou = masks.iou(list(found[rows]), list(objects[things]), crowd[things].astype(np.uint8))
        answers.append(np.asarray(iou).reshape(-1))
    return np.concatenate(answers)
