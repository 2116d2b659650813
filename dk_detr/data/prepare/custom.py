"""One annotation file of your own, cut into a part to train with and a part to score with."""

import os
import random
from collections.abc import Sequence
from typing import Any

from dk_detr.annotations.streaming import items_of, rewrite
from dk_detr.data.prepare.counts import Accept, Written


def split_custom(
    source: str, folder: str, novel: Sequence[str] = (), val_share: float = 0.2, seed: int = 0
) -> list[Written]:
    """Write train.json and val.json: the images are divided by chance, and the training part has no novel boxes.

    Args:
        source: in COCO or LVIS format. folder: for both files. novel: names that training shall not see.
        val_share: of the images that go to val.json, between 0 and 1.

    Raises: FileNotFoundError; ValueError for an unknown name, or a share that leaves one part empty.
    """
    hidden = _ids_of(novel, source)
    numbers = sorted(image["id"] for image in items_of(source, "images"))
    val = set(random.Random(seed).sample(numbers, round(val_share * len(numbers))))
    if not val or len(val) == len(numbers):
        raise ValueError(f"--val-share {val_share} of the {len(numbers)} images of {source} leaves one part empty.")
    parts = {"train.json": (set(numbers) - val, hidden), "val.json": (val, set[int]())}
    return [_write(source, os.path.join(folder, name), *part) for name, part in parts.items()]


def _write(source: str, target: str, images: set[int], hidden: set[int]) -> Written:
    def image(record: dict[str, Any]) -> dict[str, Any] | None:
        if record["id"] not in images:
            return None
        absent = record.get("neg_category_ids")
        return record if absent is None else {**record, "neg_category_ids": [i for i in absent if i not in hidden]}

    def annotation(box: dict[str, Any]) -> dict[str, Any] | None:
        return box if box["image_id"] in images and box["category_id"] not in hidden else None

    changes = {"images": image, "annotations": annotation}
    return Written(target, rewrite(source, target, changes, Accept(target, None)))


def _ids_of(names: Sequence[str], source: str) -> set[int]:
    ids = {category["name"]: category["id"] for category in items_of(source, "categories")}
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(f'--novel "{unknown[0]}" is no category of {source}; it has: {", ".join(ids)}.')
    return {ids[name] for name in names}
