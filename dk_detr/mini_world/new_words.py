"""A few labelled images of new words, to fine-tune with: every second novel word of a mini world, and no other."""

import json
from pathlib import Path
from typing import Any

from dk_detr.mini_world.concepts import categories
from dk_detr.mini_world.files import write_json

TRAIN, TEST = "new_words_train.json", "new_words_test.json"
PARTS = {TRAIN: "val", TEST: "test"}  # file in annotations/ -> the split that its images are of
FIELDS = ("id", "file_name", "width", "height")

Record = dict[str, Any]


def new_words() -> list[str]:
    """Every second novel word: of those with a seen shape, and of those with an unseen one."""
    novel = [category for category in categories() if category.frequency == "r"]
    seen, unseen = ([c.name for c in novel if c.unseen_concept is kind] for kind in (False, True))
    return [*seen[::2], *unseen[::2]]


def write_new_words(root: str | Path, train_images: int, test_images: int) -> list[Path]:
    """Write both files, in COCO's format, beside the annotations of a finished world.

    Args:
        root: of the world. train_images, test_images: at most; the first that show a new word.

    Raises: ValueError for less than one image; FileNotFoundError where there is no world.
    """
    written = []
    for (name, split), number in zip(PARTS.items(), (train_images, test_images)):
        if number < 1:
            raise ValueError(f"{name} needs 1 image or more, got {number}.")
        folder = Path(root) / "annotations"
        content = json.loads((folder / f"mini_lvis_{split}.json").read_text())
        write_json(folder / name, of_words(content, set(new_words()), number))
        written.append(folder / name)
    return written


def of_words(content: Record, names: set[str], number: int) -> Record:
    """A file without other words: the first `number` images that show one of these, their boxes, and no more."""
    kept = [{"id": c["id"], "name": c["name"]} for c in content["categories"] if c["name"] in names]
    ids = {category["id"] for category in kept}
    boxes = [annotation for annotation in content["annotations"] if annotation["category_id"] in ids]
    shown = {annotation["image_id"] for annotation in boxes}
    images = [image for image in content["images"] if image["id"] in shown][:number]
    chosen = {image["id"] for image in images}
    return {
        "images": [{field: image[field] for field in FIELDS} for image in images],
        "annotations": [annotation for annotation in boxes if annotation["image_id"] in chosen],
        "categories": kept,
    }
