"""Objects365 v2 as COCO JSON: readable names, and file names that are there."""

import os
from collections import Counter
from collections.abc import Callable
from itertools import islice
from typing import Any

from dk_detr.annotations.streaming import rewrite
from dk_detr.data.prepare.counts import Accept, Published, Rule, Written
from dk_detr.data.prepare.sound import sound_items, soundly
from dk_detr.data.prepare.unlearnable import Marker

PUBLISHED = {
    "val": Published({"images": 80000, "annotations": 1240587, "categories": 365}, "Detic"),
    "train": Published({"images": 1742289, "categories": 365}, "Ultralytics, from memory"),
}
# A text encoder reads the official names, so their slips matter. The first 13 as Detic mends them, 3 that it leaves.
SPELLINGS = {
    "Moniter/TV": "Monitor/TV", "Bakset": "Basket", "Dinning Table": "Dining Table", "Tea pot": "Teapot",
    "Extention Cord": "Extension Cord", "Hotair ballon": "Hot air balloon", "Hamimelon": "Hami melon",
    "Mushroon": "Mushroom", "Tape Measur/ Ruler": "Tape Measure/ Ruler", "Campel": "Camel", "Meat ball": "Meatball",
    "Buttefly": "Butterfly", "Table Teniis paddle": "Table Tennis paddle",
    "Ballon": "Balloon", "Billards": "Billiards", "Noddles": "Noodles",
}  # fmt: skip
LOOKED_AT = 100  # images, to see how the files are laid out


def convert_objects365(
    source: str, image_root: str, target: str, part: str = "val", rule: Rule = "published"
) -> Written:
    """Write an annotation file of Objects365 v2 for this project; memory stays small however large it is.

    Args:
        source: zhiyuan_objv2_{train,val}.json. image_root: where the images are; those that are not there are left
            out with their boxes. target: in COCO format. part: "val" or "train".

    Raises: FileNotFoundError; ValueError for other numbers than published.
    """
    published, layout = PUBLISHED[part], _layout(source, image_root)
    absent: set[int] = set()
    for image in sound_items(source, "images"):
        if not os.path.isfile(os.path.join(image_root, layout(image["file_name"]))):
            absent.add(image["id"])
    marker = Marker()
    changes = {
        "images": lambda image: None if image["id"] in absent else _image(image, layout(image["file_name"])),
        "annotations": lambda box: None if box["image_id"] in absent else marker(_annotation(box)),
        "categories": lambda category: {"id": category["id"], "name": readable_spelling(category["name"])},
    }
    read: Counter[str] = Counter()
    counts = rewrite(source, target, soundly(source, changes), Accept(target, published, rule), read)
    missing = (f"{len(absent)} images are not in {image_root}; they and their boxes are left out",) if absent else ()
    return Written(target, counts, published, missing + marker.notes(), read)


def readable_spelling(name: str) -> str:
    """The name of a category without its slips: "Table Tennis " -> "Table Tennis", "Campel" -> "Camel"."""
    return SPELLINGS.get(name.strip(), name.strip())


def _image(image: dict[str, Any], file_name: str) -> dict[str, Any]:
    return {"id": image["id"], "file_name": file_name, "width": image["width"], "height": image["height"]}


def _annotation(box: dict[str, Any]) -> dict[str, Any]:
    kept = {key: box[key] for key in ("id", "image_id", "category_id", "bbox")}
    return {**kept, "area": box.get("area", box["bbox"][2] * box["bbox"][3]), "iscrowd": box.get("iscrowd", 0)}


def _as_listed(file_name: str) -> str:
    return file_name


def _by_patch(file_name: str) -> str:
    return "/".join(file_name.split("/")[-2:])


def _layout(source: str, image_root: str) -> Callable[[str], str]:
    """Images lie as the file lists them (val/images/v1/patch8/x.jpg), or in patches (val/patch8/x.jpg): look."""
    names = [image["file_name"] for image in islice(sound_items(source, "images"), LOOKED_AT)]
    for layout in (_as_listed, _by_patch):
        if any(os.path.isfile(os.path.join(image_root, layout(name))) for name in names):
            return layout
    raise FileNotFoundError(
        f"None of the first {len(names)} images of {source} is in {image_root}: neither {(names or ['any'])[0]} nor "
        f"{_by_patch((names or ['any'])[0])}. Name their folder with --images."
    )
