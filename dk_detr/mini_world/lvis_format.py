"""The mini world in the words of LVIS v1: records of images, annotations and categories.

The exhaustive splits list every absent category as negative, so that by the rules of LVIS each false positive counts.
The training file without rare categories keeps every image, but says nothing of novel objects: neither boxes nor
whether an image holds one.
"""

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from dk_detr.mini_world import concepts, shapes
from dk_detr.mini_world.concepts import Category
from dk_detr.mini_world.scene import SIDE, SceneObject

Record = dict[str, Any]

# LVIS draws its borders at 10 and 100 of 100,000 training images. Eight thousand images of 48 categories know no such
# tail; these shares lie midway (geometrically) between the three groups of the mini world.
RARE_BELOW_SHARE = 0.045
FREQUENT_FROM_SHARE = 0.115
# Below this many training images the counts are too noisy to tell the groups apart.
IMAGES_FOR_STABLE_COUNTS = 2000


def image_record(split: str, index: int) -> Record:
    """The image of a split by index from 0.

    `file_name` is relative to the root of the data set; Detectron2 reads the last two parts of `coco_url`.
    """
    name = f"{split}/{index + 1:06d}.jpg"
    return {
        "id": index + 1,
        "file_name": name,
        "coco_url": f"mini_lvis/{name}",
        "license": 1,
        "width": SIDE,
        "height": SIDE,
    }


def annotation_record(item: SceneObject, image_id: int, category_id: int) -> Record:
    """One object as LVIS writes it, without its id: bbox (x, y, width, height) and the polygon of its outline."""
    x1, y1, x2, y2 = item.box
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
        "area": round(shapes.area(item.polygon), 2),
        "segmentation": [np.round(item.polygon, 2).ravel().tolist()],
    }


def image_counts(annotations: list[Record]) -> Counter[int]:
    """category id -> number of images that show it."""
    return Counter(category for _, category in {(a["image_id"], a["category_id"]) for a in annotations})


def frequency_thresholds(num_train_images: int) -> dict[str, float]:
    """Borders between rare, common and frequent, in training images that show the category."""
    return {
        "rare_below_images": round(RARE_BELOW_SHARE * num_train_images, 2),
        "frequent_from_images": round(FREQUENT_FROM_SHARE * num_train_images, 2),
    }


def frequency_of(image_count: int, num_train_images: int) -> str:
    """The LVIS letter of a category that so many training images show: "r", "c" or "f"."""
    thresholds = frequency_thresholds(num_train_images)
    if image_count < thresholds["rare_below_images"]:
        return "r"
    return "f" if image_count >= thresholds["frequent_from_images"] else "c"


def category_records(train_annotations: list[Record], num_train_images: int) -> list[Record]:
    """The 48 categories with their counts in the training images, as every file of the data set lists them.

    Raises:
        ValueError: a world large enough to tell has a category outside of its frequency group.
    """
    images = image_counts(train_annotations)
    instances = Counter(annotation["category_id"] for annotation in train_annotations)
    for category in concepts.categories():
        group = frequency_of(images[category.id], num_train_images)
        if num_train_images >= IMAGES_FOR_STABLE_COUNTS and group != category.frequency:
            raise ValueError(
                f"Category {category.name} is in {images[category.id]} of {num_train_images} training images: group "
                f'"{group}", but it was meant for "{category.frequency}". Choose another seed or more images.'
            )
    return [_category_record(c, images[c.id], instances[c.id]) for c in concepts.categories()]


def _category_record(category: Category, image_count: int, instance_count: int) -> Record:
    concept = category.concept
    record: Record = {
        "id": category.id,
        "name": category.name,
        "synonyms": [category.name, f"{concept.colour}_{concept.texture}_{concept.shape}"],
        "def": f"a {concept.texture} {concept.colour} {concept.shape} of the mini world",
        "synset": f"{category.name}.n.01",
        "frequency": category.frequency,
        "image_count": image_count,
        "instance_count": instance_count,
    }
    if category.unseen_concept:
        record["unseen_concept"] = True
    return record


def data_set(images: list[Record], annotations: list[Record], categories: list[Record], info: dict[str, Any]) -> Record:
    """A whole LVIS file: images annotated exhaustively for all categories.

    Args: records as the functions above make them; annotations get their ids here, from 1.
    """
    shown: dict[int, set[int]] = defaultdict(set)
    for annotation in annotations:
        shown[annotation["image_id"]].add(annotation["category_id"])
    everything = [category["id"] for category in categories]
    listed = [
        {
            **image,
            "neg_category_ids": [number for number in everything if number not in shown[image["id"]]],
            "not_exhaustive_category_ids": [],
        }
        for image in images
    ]
    return {
        "info": info,
        "licenses": [{"id": 1, "name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"}],
        "images": listed,
        "annotations": [{"id": number, **annotation} for number, annotation in enumerate(annotations, start=1)],
        "categories": categories,
    }
