"""Split files of open-vocabulary benchmarks, made from the official annotation files."""

import json
import os
from typing import Any


def drop_rare(source: str, target: str) -> dict[str, int]:
    """Write LVIS annotations without the boxes of rare categories; images and categories stay.

    Args:
        source: the official file. target: written whole or not at all.

    Returns: counts of images, annotations before and after, and categories that lost theirs.
    Raises: FileNotFoundError; ValueError if the file knows no frequencies.
    """
    if not os.path.isfile(source):
        raise FileNotFoundError(f"There is no annotation file {source}; it is on lvisdataset.org.")
    with open(source) as file:
        content: dict[str, Any] = json.load(file)
    rare = {category["id"] for category in content["categories"] if category.get("frequency") == "r"}
    if not rare:
        raise ValueError(f"{source} has no categories of frequency r: it is not an LVIS file, or was prepared already.")
    kept = [annotation for annotation in content["annotations"] if annotation["category_id"] not in rare]
    counts = {
        "images": len(content["images"]),
        "annotations before": len(content["annotations"]),
        "annotations after": len(kept),
        "rare categories": len(rare),
    }
    with open(f"{target}.part", "w") as file:
        json.dump({**content, "annotations": kept}, file)
    os.replace(f"{target}.part", target)
    return counts
