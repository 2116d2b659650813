"""Data sets in LVIS format (COCO's, with frequencies), registered under the names that users know.

They are looked for under the environment variable DETECTRON2_DATASETS, as Detectron2 does.
"""

import json
import os
from functools import lru_cache
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

# name: (annotation file, image folder), below DETECTRON2_DATASETS
DATASETS = {
    "lvis_v1_train_norare": ("lvis/lvis_v1_train_norare.json", "coco"),
    "lvis_v1_val": ("lvis/lvis_v1_val.json", "coco"),
    "mini_lvis_train": ("mini_lvis/annotations/mini_lvis_train.json", "mini_lvis"),
    "mini_lvis_train_norare": ("mini_lvis/annotations/mini_lvis_train_norare.json", "mini_lvis"),
    "mini_lvis_val": ("mini_lvis/annotations/mini_lvis_val.json", "mini_lvis"),
    "mini_lvis_test": ("mini_lvis/annotations/mini_lvis_test.json", "mini_lvis"),
}
EVALUATOR_TYPE = "lvis_open_vocabulary"


def datasets_root() -> str:
    """Where data sets are: DETECTRON2_DATASETS, or "datasets" below the current folder."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_lvis_format(name: str, json_file: str, image_root: str) -> None:
    """Make an annotation file known to Detectron2; it is read when the data set is used. Replaces an earlier one."""
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    DatasetCatalog.register(name, lambda: load_lvis_format(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type=EVALUATOR_TYPE)


def register_all() -> None:
    """Register `DATASETS` under today's DETECTRON2_DATASETS."""
    root = datasets_root()
    for name, (json_file, images) in DATASETS.items():
        register_lvis_format(name, os.path.join(root, json_file), os.path.join(root, images))


def categories_of(name: str) -> list[dict[str, Any]]:
    """The categories of a data set by ascending id: the order of its contiguous class indices."""
    if name not in DatasetCatalog.list():
        known = ", ".join(DATASETS)
        raise ValueError(f'There is no data set "{name}" (DATASETS.TRAIN, DATASETS.TEST); this project has: {known}.')
    json_file = MetadataCatalog.get(name).json_file
    return sorted(_read_json(json_file, name)["categories"], key=lambda category: category["id"])


def load_lvis_format(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Read an annotation file into Detectron2's records.

    Args:
        json_file: LVIS v1 or COCO instance annotations. image_root: joined with an image's "file_name", or, where
            LVIS gives none, with the last two parts of its "coco_url". name: of the data set.

    Returns: a dict an image with file_name, image_id, height, width, annotations (bbox xywh in pixels, category_id
        contiguous by ascending id).
    Raises: FileNotFoundError; ValueError naming the file, the image and the annotation that is wrong.
    """
    content = _read_json(json_file, name)
    ids = sorted(category["id"] for category in content["categories"])
    contiguous = {category_id: index for index, category_id in enumerate(ids)}
    records = {image["id"]: _record(image, image_root) for image in content["images"]}
    for annotation in content["annotations"]:
        _check(annotation, records, contiguous, json_file)
        records[annotation["image_id"]]["annotations"].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation.get("iscrowd", 0),
            }
        )
    if not records:
        raise ValueError(f"{json_file} ({name}) lists no images.")
    return list(records.values())


@lru_cache(maxsize=2)
def _read_once(json_file: str, size: int, changed: float) -> dict[str, Any]:
    with PathManager.open(json_file) as file:
        content: dict[str, Any] = json.load(file)
    return content


def _read_json(json_file: str, name: str) -> dict[str, Any]:
    if not os.path.isfile(json_file):
        raise FileNotFoundError(
            f'Data set "{name}" needs {json_file}, which is not there. Put the data set below {datasets_root()} '
            "or set DETECTRON2_DATASETS; `python tools/doctor.py` shows what is found."
        )
    try:
        status = os.stat(json_file)
        content = _read_once(json_file, status.st_size, status.st_mtime)
        missing = [key for key in ("images", "annotations", "categories") if key not in content]
    except ValueError as error:
        raise ValueError(f"{json_file} is no whole JSON file: {error}.") from error
    if missing:
        raise ValueError(f"{json_file} has no {missing}: it is not in LVIS or COCO format.")
    return content


def _record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    path = image.get("file_name") or "/".join(image["coco_url"].split("/")[-2:])
    return {
        "file_name": os.path.join(image_root, path),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "annotations": [],
    }


def _check(
    annotation: dict[str, Any], records: dict[int, dict[str, Any]], contiguous: dict[int, int], json_file: str
) -> None:
    where = f"{json_file}, annotation {annotation.get('id', '?')}"
    missing = [key for key in ("image_id", "category_id", "bbox") if key not in annotation]
    if missing:
        raise ValueError(f"{where} has no {missing}.")
    if annotation["image_id"] not in records:
        raise ValueError(f"{where}: its image {annotation['image_id']} is not in the file.")
    where += f" of image {os.path.basename(records[annotation['image_id']]['file_name'])}"
    if annotation["category_id"] not in contiguous:
        raise ValueError(f"{where}: its category {annotation['category_id']} is not in the file.")
    x, y, w, h = annotation["bbox"]
    if not (w > 0 and h > 0):
        side = "no width" if not w > 0 else "no height"
        raise ValueError(f"{where}: box (x {x}, y {y}, w {w}, h {h}) has {side}. Correct it or drop the annotation.")
