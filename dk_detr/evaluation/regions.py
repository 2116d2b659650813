"""Regions: boxes or masks, their areas and their overlaps, in the arithmetic of `pycocotools`.

A set of regions is one array: boxes (N, 4) float64, xywh in pixels; or masks (N,) of run-length encodings, the dicts
of `pycocotools`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as masks

AT_ONCE = 255  # masks; with NumPy 2, pycocotools 2.0.11 fails on more


def boxes(rows: Iterable[Any]) -> np.ndarray:
    """Boxes from rows of four numbers."""
    return np.array(list(rows), dtype=np.float64).reshape(-1, 4)


def encode_mask(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """A run-length encoding from what COCO's files hold: polygons, or runs, compressed or not.

    Raises: ValueError for anything else.
    """
    try:
        if isinstance(segmentation, list):
            return masks.merge(masks.frPyObjects(segmentation, height, width))
        if isinstance(segmentation["counts"], list):
            return masks.frPyObjects(segmentation, height, width)
        if tuple(segmentation["size"]) != (height, width):
            raise ValueError(f"a mask of {segmentation['size']} in an image of {[height, width]}")
        return {"size": [height, width], "counts": segmentation["counts"]}
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError("a segmentation that is neither polygons nor run-length encoded") from error


def collect(encodings: Iterable[dict[str, Any]]) -> np.ndarray:
    """Masks as an array."""
    found = list(encodings)
    regions = np.empty(len(found), dtype=object)
    regions[:] = found
    return regions


def areas(regions: np.ndarray) -> np.ndarray:
    """(N,) pixels. Of masks the masks' own, not their boxes': `lvis` and `pycocotools` take the box where a result has
    both, which sorts thin things into the wrong range of areas."""
    if regions.dtype != object:
        return regions[:, 2] * regions[:, 3]
    portions = [masks.area(list(regions[i : i + AT_ONCE])) for i in range(0, len(regions), AT_ONCE)]
    return np.concatenate([np.empty(0), *portions])


def overlaps(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """IoU of P pairs; with a crowd, the share of the detection that lies in it.

    Args:
        found, objects: P regions each, pairs in order; those of one detection stand together. crowd: (P,) bool.
    """
    return _mask_overlaps(found, objects, crowd) if found.dtype == object else _box_overlaps(found, objects, crowd)


def _box_overlaps(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    (x, y, w, h), (X, Y, W, H) = found.T, objects.T
    width, height = np.minimum(w + x, W + X) - np.maximum(x, X), np.minimum(h + y, H + Y) - np.maximum(y, Y)
    both, own = width * height, w * h
    union = np.where(crowd, own, own + W * H - both)
    meet = (width > 0) & (height > 0)
    return np.divide(both, union, out=np.zeros_like(both), where=meet)


def _mask_overlaps(found: np.ndarray, objects: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    answer = np.zeros(len(found))
    same = np.fromiter((a is b for a, b in zip(found[1:], found)), bool, max(len(found) - 1, 0))
    for run in np.split(np.arange(len(found)), np.flatnonzero(~same) + 1):
        if len(run):
            answer[run] = masks.iou([found[run[0]]], list(objects[run]), crowd[run].astype(np.uint8))[0]
    return answer
