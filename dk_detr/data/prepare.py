"""Split files of open-vocabulary benchmarks, made from the official annotation files."""

import json
import os
from typing import Any

from dk_detr.structures import whole_file


def without_rare(content: dict[str, Any]) -> dict[str, Any]:
    """LVIS annotations for open-vocabulary training: every image and category, no word about where rare ones are."""
    rare = {category["id"] for category in content["categories"] if category.get("frequency") == "r"}
    images = [
        {**image, "neg_category_ids": [number for number in image.get("neg_category_ids", ()) if number not in rare]}
        for image in content["images"]
    ]
    annotations = [annotation for annotation in content["annotations"] if annotation["category_id"] not in rare]
    return {**content, "images": images, "annotations": annotations}


def drop_rare(source: str, target: str) -> dict[str, int]:
    """Write LVIS annotations without the boxes of rare categories.

    Args:
        source: the official file. target: written whole or not at all.

    Returns: counts of images, annotations before and after, and categories that lost theirs.
    Raises: FileNotFoundError; ValueError if the file knows no rare categories.
    """
    if not os.path.isfile(source):
        raise FileNotFoundError(f"There is no annotation file {source}; `python tools/doctor.py` says where to get it.")
    with open(source) as file:
        content: dict[str, Any] = json.load(file)
    rare = sum(category.get("frequency") == "r" for category in content["categories"])
    if not rare:
        raise ValueError(f"{source} has no categories of frequency r: it is no LVIS file.")
    prepared = without_rare(content)
    with whole_file(target) as part, open(part, "w") as file:
        json.dump(prepared, file)
    return {
        "images": len(content["images"]),
        "annotations before": len(content["annotations"]),
        "annotations after": len(prepared["annotations"]),
        "rare categories": rare,
    }
