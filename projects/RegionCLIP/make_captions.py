#!/usr/bin/env python3
"""Captions for images that have none: each names the objects of an annotation file.

    projects/RegionCLIP/make_captions.py --annotations datasets/mini_lvis/annotations/mini_lvis_train.json \\
        --output output/mini/captions.json

The output is a captions file as COCO's, for MODEL.REGIONCLIP.PRETRAINING.CAPTIONS. Captions name novel objects, too, if
the annotations do: as people would who write captions.
"""

import argparse
from collections import defaultdict

import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
from dk_detr.annotations.records import file_name_of
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import readable
from dk_detr.utils import as_json, atomic_write, read_json


def captions_of(content: dict) -> dict:  # type: ignore[type-arg]
    """A captions file from the content of an annotation file; images without objects are left out."""
    if not {"categories", "annotations", "images"} <= content.keys():
        raise ValueError("it has no categories, images and annotations")
    names = {category["id"]: readable(category["name"]) for category in content["categories"]}
    found: dict[int, list[str]] = defaultdict(list)
    for annotation in content["annotations"]:
        found[annotation["image_id"]].append(names[annotation["category_id"]])
    images = [image for image in content["images"] if found[image["id"]]]
    kept = [{"id": image["id"], "file_name": file_name_of(image)} for image in images]
    texts = [(image["id"], ", ".join(f"a {name}" for name in dict.fromkeys(found[image["id"]]))) for image in images]
    captions = [{"id": number, "image_id": image, "caption": text} for number, (image, text) in enumerate(texts, 1)]
    return {"images": kept, "annotations": captions}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", required=True, metavar="JSON", help="as COCO's or LVIS's")
    parser.add_argument("--output", required=True, metavar="JSON")
    args = parser.parse_args()
    with one_clear_error():
        try:
            content = captions_of(read_json(args.annotations, "annotation file"))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{args.annotations} is no annotation file as COCO's or LVIS's: {error}.") from error
        if not content["annotations"]:
            raise ValueError(f"{args.annotations} has no object: there is nothing to say of its images.")
        atomic_write(args.output, as_json(content) + "\n")
        print(f"{len(content['annotations'])} captions: {args.output}")


if __name__ == "__main__":
    main()
