#!/usr/bin/env python3
"""A folder of images, one sub-folder for each class, becomes annotations: one box over the whole of each image.

    python projects/BackboneDistillation/image_folder.py --images photos/ --val-share 0.1 --output photos
    python projects/BackboneDistillation/train.py --config-file … --train-json photos_train.json \\
        --train-images photos/ --val-json photos_val.json --val-images photos/

The files are for training and evaluation of everything in this repository. Which images are for evaluation follows from
their names alone.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))

from PIL import Image
from tqdm import tqdm

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.data.images import SIDEWAYS, open_image, orientation_in_header
from dk_detr.engine.setup import one_clear_error
from dk_detr.utils import atomic_write

Annotations = dict[str, Any]
LEAST = 2  # images of a class to learn from


def annotations_of(folder: Path, val_share: float = 0.0) -> tuple[Annotations, Annotations]:
    """Annotations in COCO's format for training and for evaluation, of the same categories.

    Args:
        val_share: of the images of each class, at least one image where it is above 0; in [0, 1).

    Raises: FileNotFoundError; ValueError for a folder without images, for a class of too few images, and for a share
        that is none; UnreadableImage.
    """
    if not 0 <= val_share < 1:
        raise ValueError(f"--val-share must be in [0, 1), got {val_share}.")
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {folder} (--images).")
    classes = {sub.name: images for sub in sorted(folder.iterdir()) if sub.is_dir() and (images := _images_of(sub))}
    if not classes:
        raise ValueError(f"{folder} (--images) has no image in a sub-folder: wanted {folder}/<class>/<image>.")
    least = LEAST + bool(val_share)
    few = [name for name, images in classes.items() if len(images) < least]
    if few:
        raise ValueError(
            f'{folder} (--images): class "{few[0]}" has {len(classes[few[0]])} image(s) ({len(few)} such classes), and '
            f"{LEAST} are needed to learn from{', one to evaluate with' if val_share else ''}. Add images, or move the "
            "folder out."
        )
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    train, val = (Annotations(images=[], annotations=[], categories=categories) for _ in range(2))
    progress = tqdm(desc="images", unit="image", total=sum(map(len, classes.values())))
    for number, files in enumerate(classes.values(), start=1):
        of_evaluation = _of_evaluation(files, val_share)
        for file in files:
            _add(val if file in of_evaluation else train, file, number, folder)
            progress.update()
    progress.close()
    return train, val


def _images_of(folder: Path) -> list[Path]:
    known = Image.registered_extensions()
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in known)


def _of_evaluation(files: list[Path], share: float) -> set[Path]:
    number = min(max(round(share * len(files)), 1), len(files) - LEAST) if share else 0
    return set(sorted(files, key=lambda file: hashlib.sha256(file.name.encode()).hexdigest())[:number])


def _add(content: Annotations, file: Path, category: int, folder: Path) -> None:
    with open_image(file) as image:
        width, height = image.size[:: -1 if orientation_in_header(image) in SIDEWAYS else 1]
    number = len(content["images"]) + 1
    name = str(file.relative_to(folder))
    content["images"].append({"id": number, "file_name": name, "width": width, "height": height})
    box = {"bbox": [0, 0, width, height], "area": width * height, "iscrowd": 0}
    content["annotations"].append({"id": number, "image_id": number, "category_id": category, **box})


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, type=Path, metavar="FOLDER")
    parser.add_argument("--val-share", type=float, default=0.1, help="of the images of each class; 0 for none")
    parser.add_argument("--output", required=True, metavar="NAME", help="NAME_train.json and NAME_val.json are written")
    args = parser.parse_args()
    with one_clear_error():
        for split, content in zip(("train", "val"), annotations_of(args.images, args.val_share)):
            if content["images"]:
                atomic_write(f"{args.output}_{split}.json", json.dumps(content))
                print(f"{args.output}_{split}.json: {len(content['images'])} images")


if __name__ == "__main__":
    main()
