"""The same annotations in other formats. `supervision` writes the lines of one image after the other: no image is read
again, and no masks but its own are in memory."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from dk_detr.utils import atomic_write
from dk_detr.utils.packages import optional_package

FORMATS = ("coco", "yolo", "voc")


def require_supervision() -> None:
    """Raises ImportError where the package is missing."""
    optional_package("supervision", "--format yolo and voc need")


def refuse_repeated_names(names: Sequence[str]) -> None:
    """YOLO and Pascal VOC call the file of an image by its name, without folder and ending: ValueError where two would
    get the same."""
    stem, times = Counter(PurePosixPath(name).stem for name in names).most_common(1)[0]
    if times > 1:
        raise ValueError(f'--format yolo and voc write one file "{stem}" for {times} images of that name: rename them.')


def write_format(kind: str, annotations: Path) -> Path:
    """Write a folder beside the annotation file; returns it. Masks become polygons.

    Args:
        kind: "yolo" or "voc".
    """
    from supervision.dataset.formats.yolo import save_data_yaml

    folder = annotations.with_name(f"{annotations.stem}_{kind}")
    content = json.loads(annotations.read_text(encoding="utf-8"))
    classes = [category["name"] for category in content["categories"]]  # their ids are 1, 2, 3, …
    of_images = defaultdict(list)
    for annotation in content["annotations"]:
        of_images[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        stem, found = PurePosixPath(image["file_name"]).stem, of_images[image["id"]]
        if kind == "yolo":
            atomic_write(folder / "labels" / f"{stem}.txt", _yolo(image, found))
        else:
            atomic_write(folder / f"{stem}.xml", _voc(image, found, classes))
    if kind == "yolo":
        save_data_yaml(str(folder / "data.yaml"), classes)
    return folder


def _yolo(image: dict[str, Any], annotations: Sequence[dict[str, Any]]) -> str:
    from supervision.dataset.formats.yolo import detections_to_yolo_annotations

    size = image["height"], image["width"], 3
    return "\n".join(
        line
        for annotation in annotations
        for line in detections_to_yolo_annotations(_detections([annotation]), size, approximation_percentage=0.0)
    )


def _voc(image: dict[str, Any], annotations: Sequence[dict[str, Any]], classes: list[str]) -> str:
    from supervision.dataset.formats.pascal_voc import detections_to_pascal_voc

    name, size = PurePosixPath(image["file_name"]).name, (image["height"], image["width"], 3)
    return detections_to_pascal_voc(_detections(annotations), classes, name, size, approximation_percentage=0.0)


def _detections(annotations: Sequence[dict[str, Any]]) -> Any:
    """`supervision`'s, of one image."""
    import supervision

    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    masks = [mask_util.decode(each["segmentation"]).astype(bool) for each in annotations if "segmentation" in each]
    return supervision.Detections(
        xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        class_id=np.array([annotation["category_id"] - 1 for annotation in annotations], dtype=int),
        mask=np.stack(masks) if masks else None,
    )
