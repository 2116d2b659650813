"""One annotation file of your own, cut into a part to train with and a part to score with."""

import os
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from dk_detr.annotations import SPLITTING, read_annotation_file
from dk_detr.annotations.streaming import rewrite
from dk_detr.data.prepare.counts import Accept, Written


def split_custom(
    source: str, folder: str, novel: Sequence[str] = (), val_share: float = 0.2, seed: int = 0
) -> list[Written]:
    """Write train.json and val.json: the images are divided by chance, and the training part has no novel boxes.

    Every image and every annotation of the source is in one of the parts, but for novel boxes of training images.

    Args:
        source: in COCO or LVIS format. folder: for both files. novel: names that training shall not see.
        val_share: of the images that go to val.json, between 0 and 1.

    Raises: FileNotFoundError; ValueError for a record that is malformed or ambiguous, an unknown name, or a share
        that leaves one part empty. Nothing is written then.
    """
    content = read_annotation_file(source, SPLITTING)
    hidden = _ids_of(novel, content["categories"], source)
    numbers = sorted(image["id"] for image in content["images"])
    val = set(random.Random(seed).sample(numbers, round(val_share * len(numbers)))) if 0 <= val_share <= 1 else set()
    if not val or len(val) == len(numbers):
        raise ValueError(f"--val-share {val_share} of the {len(numbers)} images of {source} leaves one part empty.")
    parts = {"train.json": (set(numbers) - val, hidden), "val.json": (val, set[int]())}
    return [_write(source, os.path.join(folder, name), *part) for name, part in parts.items()]


def _write(source: str, target: str, images: set[int], hidden: set[int]) -> Written:
    unseen = 0

    def image(record: dict[str, Any]) -> dict[str, Any] | None:
        if record["id"] not in images:
            return None
        absent = record.get("neg_category_ids")
        return record if absent is None else {**record, "neg_category_ids": [i for i in absent if i not in hidden]}

    def annotation(box: dict[str, Any]) -> dict[str, Any] | None:
        nonlocal unseen
        if box["image_id"] not in images:
            return None
        unseen += box["category_id"] in hidden
        return box if box["category_id"] not in hidden else None

    changes = {"images": image, "annotations": annotation}
    read: Counter[str] = Counter()
    counts = rewrite(source, target, changes, Accept(target, None), read)
    elsewhere = read["annotations"] - counts["annotations"] - unseen
    notes = f"Of the annotations left out, {elsewhere} are in the other part; {unseen} are of novel names."
    return Written(target, counts, notes=(notes,), read=read)


def _ids_of(names: Sequence[str], categories: Sequence[dict[str, Any]], source: str) -> set[int]:
    ids = {category["name"]: category["id"] for category in categories}
    unknown = [name for name in names if name not in ids]
    if unknown:
        raise ValueError(f'--novel "{unknown[0]}" is no category of {source}; it has: {", ".join(ids)}.')
    return {ids[name] for name in names}
