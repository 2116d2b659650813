"""OV-COCO from COCO's annotation files, as OVR-CNN and Detic make it: boxes of some categories, images with any."""

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dk_detr.annotations.ov_coco import BASE, NOVEL
from dk_detr.annotations.streaming import rewrite
from dk_detr.data.prepare.counts import Accept, Published, Rule, Written
from dk_detr.data.prepare.sound import sound_items, soundly
from dk_detr.data.prepare.unlearnable import Marker

ALL = {**BASE, **NOVEL}


@dataclass(frozen=True)
class Split:
    """One of the files.

    Attributes:
        file: its name in Detic's layout. part: of COCO it is made from, "train" or "val". boxes: categories whose
            boxes it has. categories: that it lists. published: its numbers.
    """

    file: str
    part: str
    boxes: Mapping[str, int]
    categories: Mapping[str, int]
    published: Published


_SAYS = "OVR-CNN, from memory"
SPLITS = (
    Split(
        "instances_train2017_seen_2_oriorder.json", "train", BASE, ALL,
        Published({"images": 107761, "annotations": 665387, "categories": 65}, _SAYS),
    ),
    Split(
        "instances_val2017_all_2_oriorder.json", "val", ALL, ALL,
        Published({"images": 4836, "annotations": 33152, "categories": 65}, _SAYS),
    ),
    Split("instances_val2017_seen_2.json", "val", BASE, BASE, Published({"categories": 48}, "the split's lists")),
    Split("instances_val2017_unseen_2.json", "val", NOVEL, NOVEL, Published({"categories": 17}, "the split's lists")),
)  # fmt: skip


def split_coco(train: str, val: str, folder: str, rule: Rule = "published") -> list[Written]:
    """Write the four files into a folder.

    Args:
        train, val: instances_train2017.json and instances_val2017.json. rule: which numbers will do.

    Detic's own files list all 80 categories of COCO; these list the 65, and say of each whether it is "seen" or
    "unseen", as OVR-CNN's do.

    Raises: FileNotFoundError; ValueError for a file that lacks COCO's categories, or has other numbers than published.
    """
    sources = {"train": train, "val": val}
    return [_write(split, sources[split.part], folder, rule) for split in SPLITS]


def _write(split: Split, source: str, folder: str, rule: Rule) -> Written:
    _check_categories(source, split.categories)
    ids, listed = set(split.boxes.values()), set(split.categories.values())
    images = {box["image_id"] for box in sound_items(source, "annotations") if box["category_id"] in ids}
    marker = Marker()
    changes = {
        "images": lambda image: image if image["id"] in images else None,
        "annotations": lambda box: marker(box) if box["category_id"] in ids else None,
        "categories": lambda category: _with_split(category) if category["id"] in listed else None,
    }
    target = os.path.join(folder, split.file)
    read: Counter[str] = Counter()
    counts = rewrite(source, target, soundly(source, changes), Accept(target, split.published, rule), read)
    return Written(target, counts, split.published, marker.notes(), read)


def _with_split(category: dict[str, Any]) -> dict[str, Any]:
    return {**category, "split": "unseen" if category["name"] in NOVEL else "seen"}


def _check_categories(source: str, categories: Mapping[str, int]) -> None:
    found = {category["id"]: category["name"] for category in sound_items(source, "categories")}
    for name, number in categories.items():
        if found.get(number) != name:
            other = found.get(number, "")
            raise ValueError(f'{source}: category {number} should be "{name}", not "{other}". Is the file COCO\'s?')
