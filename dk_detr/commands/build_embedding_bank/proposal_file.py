"""Proposals of others: a list of results in JSON, or Detectron2's pickled proposals. N boxes."""

import json
import logging
import pickle
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import BoxMode
from torch import Tensor

from dk_detr.data.bank import identity_of
from dk_detr.utils.arrays import UNREADABLE, ArraysOnly

logger = logging.getLogger(__name__)
_OLD_NAMES = {"indexes": "ids", "scores": "objectness_logits"}  # as Detectron called them
_XYXY, _XYWH = int(BoxMode.XYXY_ABS), int(BoxMode.XYWH_ABS)


class ProposalFile:
    """Boxes of each image from a file.

    Args:
        path: .json, a list of {"image_id", "bbox" (xywh in pixels), "score"}; or .pkl, Detectron2's dict of "ids",
            "boxes", "objectness_logits" and "bbox_mode", of which only arrays are read and nothing is run.
        records: of the images that will be asked for.

    Raises: FileNotFoundError; ValueError for a file that is not whole, or of other images.
    """

    needs_input = False

    def __init__(self, path: str, records: Sequence[Mapping[str, Any]]) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no file of proposals {path} (--proposals).")
        self.path = path
        self.settings = {"source": "file", "file": identity_of(path)}
        self._boxes = _read_pickle(path) if path.endswith(".pkl") else _read_json(path)
        self._refuse_other_images(records)

    def __call__(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """See `Source`."""
        boxes, scores = self._boxes.get(sample["image_id"], _NOTHING)
        wrong = ~(np.isfinite(boxes).all(1) & np.isfinite(scores))
        if wrong.any():
            raise ValueError(
                f"{self.path}, image {sample['image_id']}: box {boxes[wrong][0].tolist()} with score "
                f"{scores[wrong][0]} is not finite."
            )
        return torch.from_numpy(boxes), torch.from_numpy(scores)

    def _refuse_other_images(self, records: Sequence[Mapping[str, Any]]) -> None:
        without = [record for record in records if record["image_id"] not in self._boxes]
        if len(without) == len(records):
            raise ValueError(f"{self.path} has no proposals for any of the {len(records):,} images of DATASETS.TRAIN.")
        if without:
            logger.warning(
                f"{self.path} has no proposals for {len(without):,} of {len(records):,} images, the first "
                f"{without[0]['file_name']}; they teach nothing."
            )


_Boxes = tuple[np.ndarray, np.ndarray]  # (N, 4) xyxy in pixels, (N,)
_NOTHING: _Boxes = (np.empty((0, 4), np.float32), np.empty(0, np.float32))


def _read_json(path: str) -> dict[int, _Boxes]:
    ids, numbers = array("q"), array("f")

    def keep(row: dict[str, Any]) -> Any:
        """Numbers instead of dicts while the file is read: a hundred million proposals still fit."""
        if "image_id" not in row:
            return row  # a mask inside a result
        try:
            x, y, w, h = row["bbox"]
            ids.append(row["image_id"])
            numbers.extend((x, y, x + w, y + h, row["score"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f'{path}, result {len(ids)}: wanted numbers "image_id", "bbox" (x, y, w, h), "score"; got {row!r:.80}.'
            ) from error
        return None

    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file, object_hook=keep)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is no whole JSON file: {error}.") from error
    if not isinstance(content, list) or len(content) != len(ids):
        raise ValueError(f'{path} is no list of {{"image_id", "bbox", "score"}} (--proposals).')
    return _by_image(np.frombuffer(ids, np.int64), np.frombuffer(numbers, np.float32).reshape(-1, 5))


def _by_image(ids: np.ndarray, rows: np.ndarray) -> dict[int, _Boxes]:
    order = np.argsort(ids, kind="stable")
    ids, rows = ids[order], rows[order]
    images, starts = np.unique(ids, return_index=True)
    parts = np.split(rows, starts[1:]) if len(images) else []
    return {int(image): (part[:, :4].copy(), part[:, 4].copy()) for image, part in zip(images, parts)}


def _read_pickle(path: str) -> dict[int, _Boxes]:
    try:
        with open(path, "rb") as file:
            content = _BoxesOnly(file, encoding="latin1").load()
        content = {_OLD_NAMES.get(key, key): value for key, value in content.items()}
        columns = zip(content["ids"], content["boxes"], content["objectness_logits"], strict=True)
        mode = int(content.get("bbox_mode", _XYXY))
        return {int(number): _checked(boxes, scores, mode) for number, boxes, scores in columns}
    except UNREADABLE as error:
        raise ValueError(f"{path} holds no proposals in Detectron2's format ({error}).") from error


def _checked(boxes: Any, scores: Any, mode: int) -> _Boxes:
    boxes, scores = np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32).reshape(-1)
    if len(boxes) != len(scores):
        raise ValueError(f"{len(boxes)} boxes with {len(scores)} scores")
    if mode not in (_XYXY, _XYWH):
        raise ValueError(f"bbox_mode {mode} is neither XYXY_ABS nor XYWH_ABS")
    if mode == _XYWH:
        boxes[:, 2:] += boxes[:, :2]
    return boxes, scores


class _BoxesOnly(ArraysOnly):
    """Knows Detectron2's box modes besides."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("detectron2.structures.boxes", "BoxMode"):
            return int
        if (module, name) == ("builtins", "getattr"):  # how some releases of Python 3.11 write a box mode
            return _mode_by_name
        return super().find_class(module, name)


def _mode_by_name(owner: Any, name: str) -> int:
    """In the place of getattr(BoxMode, name), where BoxMode is read as int; nothing else is looked up."""
    if owner is not int:
        raise pickle.UnpicklingError(f"{name} of {owner} is no array")
    return int(BoxMode[name])
