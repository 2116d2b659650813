"""The annotation file, in COCO's format. Ids count from 1, in the order of the images and of the scores."""

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util

from dk_detr.commands.label.journal import Journal, Record
from dk_detr.commands.label.request import Request, refuse_another
from dk_detr.detector import Detections
from dk_detr.utils import atomic_file

ABOUT = "Found by a detector, not by people: each annotation has its score."
HEAD = '{"info": '  # the first line of the file


def annotations_of(found: Detections) -> list[dict[str, Any]]:
    """COCO's annotations of one image, without ids; those without an area are left out."""
    records = [{**record, **_area_of(record), "iscrowd": 0} for record in found.to_coco(image_id=0)]
    for record in records:
        del record["image_id"], record["category_name"]
    return [record for record in records if record["area"] > 0]


def _area_of(record: dict[str, Any]) -> dict[str, float]:
    """That of the mask, where there is one; 0 where the box has none."""
    _, _, width, height = record["bbox"]
    area = width * height
    if area > 0 and "segmentation" in record:
        area = float(mask_util.area(record["segmentation"]))
    return {"area": round(area, 2)}


def write_annotations(path: Path, journal: Journal, request: Request) -> dict[str, Any]:
    """Write the file, record by record; returns its "info"."""
    info = {"description": ABOUT, "labelling": request, "result": _summary(journal, request["classes"])}
    categories = [{"id": number, "name": name} for number, name in enumerate(request["classes"], start=1)]
    with atomic_file(path) as part, open(part, "w", encoding="utf-8") as file:
        file.write(f'{HEAD}{json.dumps(info)},\n"licenses": [],\n"categories": {json.dumps(categories)},\n')
        for key, entries in (("images", _images(journal)), ("annotations", _annotations(journal))):
            file.write(f'"{key}": [')
            separators = itertools.chain(["\n"], itertools.repeat(",\n"))
            file.writelines(next(separators) + json.dumps(entry) for entry in entries)
            file.write("\n],\n" if key == "images" else "\n]}\n")
    return info


def info_of(path: Path, request: Request) -> dict[str, Any]:
    """The "info" of a file that `write_annotations` wrote. Raises ValueError for any other, or of another request."""
    try:
        info = read_info(path)
        there = info["labelling"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is there, and this tool did not write it: name another --output.") from error
    refuse_another(there, request, path)
    return info


def read_info(path: Path) -> dict[str, Any]:
    """The "info" of a file, from its first line alone."""
    with open(path, encoding="utf-8", errors="replace") as file:
        info: dict[str, Any] = json.loads(file.readline()[len(HEAD) :].rstrip().rstrip(","))
    return info


def _labelled(journal: Journal) -> Iterator[tuple[int, Record]]:
    """Image ids and records, without images that could not be read."""
    return enumerate((record for record in journal.records() if "error" not in record), start=1)


def _images(journal: Journal) -> Iterator[dict[str, Any]]:
    for image_id, record in _labelled(journal):
        yield {"id": image_id, **{key: record[key] for key in ("file_name", "width", "height")}}


def _annotations(journal: Journal) -> Iterator[dict[str, Any]]:
    number = 0
    for image_id, record in _labelled(journal):
        for annotation in record["annotations"]:
            number += 1
            yield {"id": number, "image_id": image_id, **annotation}


def _summary(journal: Journal, classes: list[str]) -> dict[str, Any]:
    of_words: Counter[str] = Counter()
    images, empty, failed = 0, 0, []
    for record in journal.records():
        if "error" in record:
            failed.append(record["error"])
            continue
        images, empty = images + 1, empty + record["empty"]
        of_words.update(classes[annotation["category_id"] - 1] for annotation in record["annotations"])
    return {
        "images": images, "annotations": of_words.total(), "of_words": dict(of_words.most_common()),
        "without_area": empty, "failed": failed,
    }  # fmt: skip
