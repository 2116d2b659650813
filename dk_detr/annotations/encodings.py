"""Masks as run-length encodings: the dicts of `pycocotools` with "counts" in bytes, from whatever files hold."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import numpy as np
from pycocotools import mask as masks

from dk_detr.annotations.segmentation import is_far, outline_of

AT_ONCE = 255  # masks; with NumPy 2, the area of more fails in pycocotools 2.0.11


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
