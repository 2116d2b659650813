"""Boxes and masks: their areas and their overlaps, in the arithmetic of `pycocotools`.

A set of either is one array: boxes (N, 4) float64, xywh in pixels; or masks (N,) of run-length encodings, the dicts
of `pycocotools` with "counts" in bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from pycocotools import mask as masks

from dk_detr.annotations.encodings import AT_ONCE, collect, encode_mask, torn


def boxes(rows: Iterable[Any]) -> np.ndarray:
    """Boxes from rows of four numbers."""
    return np.array(list(rows), dtype=np.float64).reshape(-1, 4)


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
