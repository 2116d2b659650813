"""PASCAL VOC as COCO JSON: one file instead of thousands, difficult objects marked."""

import math
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from detectron2.data.datasets.pascal_voc import CLASS_NAMES

from dk_detr.annotations.records import flag
from dk_detr.annotations.streaming import write_items
from dk_detr.data.prepare.counts import Accept, Published, Rule, Written

PUBLISHED = {
    "test": Published({"images": 4952, "annotations": 14976, "categories": 20}, "VOC2007; boxes from memory")
}


def convert_voc(folder: str, split: str, target: str, rule: Rule = "published") -> Written:
    """Write the images of a split and their boxes in COCO format.

    VOC counts pixels from 1 and includes the last: a box from 1 to 3 covers three pixels, in COCO's continuous frame
    x 0, w 3; so does Detectron2. (mmdetection subtracts 1 from both ends, which makes it two.) A difficult object has
    `"difficult": 1` and `"ignore": 1`: finding it is neither right nor wrong.

    Args:
        folder: VOC2007, with Annotations, ImageSets and JPEGImages. split: a list in ImageSets/Main.

    Raises: FileNotFoundError; ValueError for a broken file, an unknown class, or other numbers than published.
    """
    numbers = Path(folder, "ImageSets", "Main", f"{split}.txt")
    if not numbers.is_file():
        raise FileNotFoundError(f"There is no {numbers}: --source should be the folder VOC2007, with ImageSets in it.")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in numbers.read_text().split():
        root = _parse(Path(folder, "Annotations", f"{number}.xml"))
        images.append(_image(root, number))
        for element in root.iter("object"):
            annotations.append(_annotation(element, len(annotations) + 1, images[-1]["id"], number))
    published = PUBLISHED.get(split)
    categories = [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    counts = write_items(target, content, Accept(target, published, rule))
    difficult = sum(annotation["difficult"] for annotation in annotations)
    return Written(target, counts, published, (f"{difficult} of the boxes are difficult",))


def _parse(path: Path) -> ElementTree.Element:
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no {path}.")
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no whole XML file: {error}.") from error


def _image(root: ElementTree.Element, number: str) -> dict[str, Any]:
    width, height = (int(_number(root, f"size/{side}", number)) for side in ("width", "height"))
    if not number.isdecimal():
        raise ValueError(f'"{number}" is no number of an image of VOC; its list should hold such as 000005.')
    return {"id": int(number), "file_name": f"JPEGImages/{number}.jpg", "width": width, "height": height}


def _annotation(element: ElementTree.Element, annotation_id: int, image_id: int, number: str) -> dict[str, Any]:
    name = _text(element, "name", number)
    if name not in CLASS_NAMES:
        raise ValueError(f'{number}.xml: "{name}" is no class of VOC.')
    left, top, right, bottom = (_number(element, f"bndbox/{side}", number) for side in _SIDES)
    width, height = right - left + 1, bottom - top + 1
    difficult = _difficult(element, number)
    return {
        "id": annotation_id, "image_id": image_id, "category_id": CLASS_NAMES.index(name) + 1,
        "bbox": [left - 1, top - 1, width, height], "area": width * height,
        "iscrowd": 0, "difficult": difficult, "ignore": difficult,
    }  # fmt: skip


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _number(element: ElementTree.Element, path: str, number: str) -> float:
    text = _text(element, path, number)
    try:
        if math.isfinite(value := float(text)):
            return value
    except ValueError:
        pass
    raise ValueError(f'{number}.xml: <{path}> is "{text}", no number.')


def _difficult(element: ElementTree.Element, number: str) -> int:
    try:
        return flag(element.findtext("difficult"))
    except ValueError as error:
        raise ValueError(f"{number}.xml: <difficult> is {error}.") from error


def _text(element: ElementTree.Element, path: str, number: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"{number}.xml has no <{path}>.")
    return text.strip()
