"""The JSON that tools/demo.py writes: a record of each image or frame."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dk_detr.detector import Detections
from dk_detr.detector.detections import encode_mask
from dk_detr.utils import atomic_file


@contextmanager
def growing_list(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that adds a record to a JSON list, one record a line. The file is complete when the block ends,
    also by an error or Ctrl-C. If the process is killed, the records so far are in `<path>.part`.
    """
    stopped: BaseException | None = None
    with atomic_file(path) as part, open(part, "w", encoding="utf-8") as file:
        separators = itertools.chain(["[\n"], itertools.repeat(",\n"))

        def add(record: dict[str, Any]) -> None:
            file.write(next(separators) + json.dumps(record))
            file.flush()

        try:
            yield add
        except BaseException as error:  # noqa: BLE001  raised again below
            stopped = error
        file.write("\n]\n" if next(separators) == ",\n" else "[]\n")
    if stopped is not None:
        raise stopped


def record_of(found: Detections, file: str, **about: Any) -> dict[str, Any]:
    """The record of one image or frame: its file, what is said `about` it, its size, and its detections."""
    height, width = found.size
    return {"file": file, **about, "width": width, "height": height, "detections": detection_records(found)}


def detection_records(found: Detections) -> list[dict[str, Any]]:
    """Detections for the JSON, the best first: name, score, box xyxy in pixels of the image, and of a detector with
    masks "segmentation", COCO's compressed RLE."""
    records: list[dict[str, Any]] = [
        {"name": name, "score": round(score, 4), "box": [round(x, 2) for x in box]}
        for name, score, box in zip(found.names, found.scores.tolist(), found.boxes_xyxy_abs.tolist())
    ]
    for record, mask in zip(records, () if found.masks is None else found.masks):
        record["segmentation"] = encode_mask(mask)
    return records
