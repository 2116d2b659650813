"""OV-LVIS: LVIS v1 without the boxes of rare categories; and minival, its part that COCO's val2017 holds."""

from collections import Counter
from typing import Any

from dk_detr.annotations import is_marked_novel
from dk_detr.annotations.streaming import rewrite
from dk_detr.data.prepare.counts import Accept, Published, Rule, Written
from dk_detr.data.prepare.sound import sound_items, soundly

NORARE = Published(
    {"images": 100170, "annotations": 1264884, "categories": 1203}, "LVIS v1; boxes by the counts that Detic ships"
)
MINIVAL = Published({"images": 4809, "categories": 1203}, "GLIP's file, from memory")


def without_rare(content: dict[str, Any]) -> dict[str, Any]:
    """LVIS annotations for open-vocabulary training: every image and category, no word about where rare ones are."""
    change = _WithoutRare(content["categories"])
    annotations = [box for box in content["annotations"] if change.annotation(box) is not None]
    return {**content, "images": [change.image(image) for image in content["images"]], "annotations": annotations}


def drop_rare(source: str, target: str, rule: Rule = "published") -> Written:
    """Write LVIS annotations without the boxes of rare categories; images and categories stay.

    Raises: FileNotFoundError; ValueError if the file knows no rare categories or has other numbers than published.
    """
    change = _WithoutRare(list(sound_items(source, "categories")))
    if not change.rare:
        raise ValueError(f"{source} has no categories of frequency r: it is no LVIS file.")
    changes = {"images": change.image, "annotations": change.annotation}
    read: Counter[str] = Counter()
    counts = rewrite(source, target, soundly(source, changes), Accept(target, NORARE, rule), read)
    notes = (f"{change.dropped} boxes of {len(change.rare)} rare categories left out",)
    return Written(target, counts, NORARE, notes, read)


class _WithoutRare:
    def __init__(self, categories: list[dict[str, Any]]) -> None:
        self.rare = {category["id"] for category in categories if is_marked_novel(category)}
        self.dropped = 0

    def image(self, image: dict[str, Any]) -> dict[str, Any]:
        absent = [number for number in image.get("neg_category_ids", ()) if number not in self.rare]
        return {**image, "neg_category_ids": absent}

    def annotation(self, annotation: dict[str, Any]) -> dict[str, Any] | None:
        if annotation["category_id"] not in self.rare:
            return annotation
        self.dropped += 1
        return None


def take_minival(source: str, target: str, rule: Rule = "published") -> Written:
    """Write the images of LVIS val that are in COCO's val2017, with their annotations. Not to be compared with val.

    Raises: FileNotFoundError; ValueError for a file without such images, or with other numbers than published.
    """
    inside = {image["id"] for image in sound_items(source, "images") if "/val2017/" in image.get("coco_url", "")}
    if not inside:
        raise ValueError(f"{source} lists no image of val2017 by its coco_url: it is not lvis_v1_val.json.")
    changes = {
        "images": lambda image: image if image["id"] in inside else None,
        "annotations": lambda annotation: annotation if annotation["image_id"] in inside else None,
    }
    read: Counter[str] = Counter()
    counts = rewrite(source, target, soundly(source, changes), Accept(target, MINIVAL, rule), read)
    return Written(target, counts, MINIVAL, read=read)
