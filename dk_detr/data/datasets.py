"""Data sets in COCO's or LVIS's format, registered under the names that users know.

They are looked for under the environment variable DETECTRON2_DATASETS, as Detectron2 does. Of the names that Detectron2
has too, `coco_2017_train` and `coco_2017_val` stay Detectron2's own; `lvis_v1_val` and `voc_2007_test` become this
project's for as long as it is imported. Detectron2's `LVISEvaluator` works with it as before, its VOC evaluator does
not.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from detectron2.data.datasets.builtin_meta import _get_builtin_metadata
from detectron2.structures import BoxMode

from dk_detr.annotations import EVALUATION, SPLITS, TRAINING, Use, read_annotation_file
from dk_detr.annotations.records import file_name_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies and how it is evaluated.

    Attributes:
        json_file, images: annotation file and image folder, below DETECTRON2_DATASETS.
        evaluator_type: "lvis", "coco", "ov-coco", "voc" or "objects365": how detections are evaluated.
        split: of `annotations.SPLITS`, the names that training must not see; "" where the vocabulary says which.
        made_by: the sub-command of tools/prepare_dataset.py that writes the annotation file, if one does.
        builtin: the data set of Detectron2 whose metadata (names, colours) and loader it has; "" for none.
        word_list: of language.WORD_LISTS, whose names its categories are; "" for none.
    """

    json_file: str
    images: str
    evaluator_type: str
    split: str = ""
    made_by: str = ""
    builtin: str = ""
    word_list: str = ""


_COCO = {"evaluator_type": "coco", "builtin": "coco", "word_list": "coco"}
_LVIS = {"evaluator_type": "lvis", "word_list": "lvis"}
_ZERO_SHOT = "coco/zero-shot/instances"
_OV_COCO = {"evaluator_type": "ov-coco", "made_by": "ov-coco", "word_list": "coco"}
_OV_COCO_TRAIN = DataSet(
    f"{_ZERO_SHOT}_train2017_seen_2_oriorder.json", "coco/train2017", split="ov-coco", **_OV_COCO
)
_OV_COCO_VAL = DataSet(f"{_ZERO_SHOT}_val2017_all_2_oriorder.json", "coco/val2017", split="ov-coco", **_OV_COCO)
_OV_COCO_BASE = DataSet(f"{_ZERO_SHOT}_val2017_seen_2.json", "coco/val2017", **_OV_COCO)
_OV_COCO_NOVEL = DataSet(f"{_ZERO_SHOT}_val2017_unseen_2.json", "coco/val2017", split="ov-coco", **_OV_COCO)
_O365 = "objects365/annotations/zhiyuan_objv2"
_MINI = "mini_lvis/annotations/mini_lvis"

DATASETS: Mapping[str, DataSet] = {
    "lvis_v1_train_norare": DataSet("lvis/lvis_v1_train_norare.json", "coco", made_by="lvis-norare", **_LVIS),
    "lvis_v1_val": DataSet("lvis/lvis_v1_val.json", "coco", **_LVIS),
    "lvis_v1_minival": DataSet("lvis/lvis_v1_minival.json", "coco", made_by="lvis-minival", **_LVIS),
    # OV-COCO under Detic's names …
    "coco_zeroshot_train_oriorder": _OV_COCO_TRAIN,
    "coco_generalized_zeroshot_val": _OV_COCO_VAL,
    "coco_not_zeroshot_val": _OV_COCO_BASE,
    "coco_zeroshot_val": _OV_COCO_NOVEL,
    # … and RegionCLIP's: base, target (novel), all
    "coco_2017_ovd_b_train": _OV_COCO_TRAIN,
    "coco_2017_ovd_all_test": _OV_COCO_VAL,
    "coco_2017_ovd_b_test": _OV_COCO_BASE,
    "coco_2017_ovd_t_test": _OV_COCO_NOVEL,
    "coco_2017_train": DataSet("coco/annotations/instances_train2017.json", "coco/train2017", **_COCO),
    "coco_2017_val": DataSet("coco/annotations/instances_val2017.json", "coco/val2017", **_COCO),
    "voc_2007_test": DataSet("VOC2007/voc_2007_test.json", "VOC2007", "voc", made_by="voc", word_list="voc"),
    "objects365_v2_train": DataSet(
        f"{_O365}_train_fixname_fixmiss.json", "objects365/train", "objects365", made_by="objects365 --part train"
    ),
    "objects365_v2_val": DataSet(
        f"{_O365}_val_fixname.json", "objects365/val", "objects365", made_by="objects365"
    ),
    "mini_lvis_train": DataSet(f"{_MINI}_train.json", "mini_lvis", "lvis"),
    "mini_lvis_train_norare": DataSet(f"{_MINI}_train_norare.json", "mini_lvis", "lvis"),
    "mini_lvis_val": DataSet(f"{_MINI}_val.json", "mini_lvis", "lvis"),
    "mini_lvis_test": DataSet(f"{_MINI}_test.json", "mini_lvis", "lvis"),
}


def datasets_root() -> str:
    """Where data sets are: DETECTRON2_DATASETS, or "datasets" below the current folder."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register(name: str, json_file: str, image_root: str, evaluator_type: str = "lvis", **metadata: Any) -> None:
    """Make an annotation file known to Detectron2; it is read when the data set is used. Replaces an earlier one.

    Args:
        evaluator_type: as in `DataSet`. metadata: more that Detectron2's `MetadataCatalog` is to say of it.
    """
    _forget(name)
    DatasetCatalog.register(name, lambda: load_coco_format(json_file, image_root, name))
    MetadataCatalog.get(name).set(
        json_file=json_file, image_root=image_root, evaluator_type=evaluator_type, **metadata
    )


def _load_coco(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Detectron2's records of a file that our reader has looked at: Detectron2's own breaks on malformed ones."""
    read_annotations(json_file, name, EVALUATION)
    records: list[dict[str, Any]] = load_coco_json(json_file, image_root, name)
    return records


def _forget(name: str) -> None:
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)


def register_all() -> None:
    """Register `DATASETS` under today's DETECTRON2_DATASETS."""
    root = datasets_root()
    for name, dataset in DATASETS.items():
        json_file, images = os.path.join(root, dataset.json_file), os.path.join(root, dataset.images)
        if dataset.builtin:  # with masks, where Detectron2 looked when it was imported
            _forget(name)
            register_coco_instances(name, _get_builtin_metadata(dataset.builtin), json_file, images)
            DatasetCatalog.pop(name)
            DatasetCatalog.register(name, partial(_load_coco, json_file, images, name))
            MetadataCatalog.get(name).set(word_list=dataset.word_list)
        else:
            novel = {"novel_names": SPLITS[dataset.split].novel} if dataset.split else {}
            register(name, json_file, images, dataset.evaluator_type, word_list=dataset.word_list, **novel)


@contextmanager
def datasets_below(root: str) -> Iterator[None]:
    """For as long as the block lasts, the registered data sets are those below another DETECTRON2_DATASETS."""
    before = os.environ.get("DETECTRON2_DATASETS")
    os.environ["DETECTRON2_DATASETS"] = root
    register_all()
    try:
        yield
    finally:
        os.environ.pop("DETECTRON2_DATASETS")
        os.environ.update({"DETECTRON2_DATASETS": before} if before is not None else {})
        register_all()


def categories_of(name: str) -> list[dict[str, Any]]:
    """The categories of a data set by ascending id: the order of its contiguous class indices."""
    if name not in DatasetCatalog.list():
        known = ", ".join(DATASETS)
        raise ValueError(f'There is no data set "{name}" (DATASETS.TRAIN, DATASETS.TEST); this project has: {known}.')
    json_file = MetadataCatalog.get(name).get("json_file")
    if json_file is None:
        raise ValueError(f'Data set "{name}" (DATASETS.TRAIN, DATASETS.TEST) has no annotation file in COCO format.')
    return sorted(read_annotations(json_file, name, EVALUATION)["categories"], key=lambda category: category["id"])


def load_coco_format(json_file: str, image_root: str, name: str) -> list[dict[str, Any]]:
    """Read an annotation file into Detectron2's records.

    Args:
        json_file: LVIS v1 or COCO instance annotations. image_root: joined with an image's "file_name", or, where
            LVIS gives none, with the last two parts of its "coco_url". name: of the data set.

    Returns: a dict an image with file_name, image_id, height, width, annotations (bbox xywh in pixels, category_id
        contiguous by ascending id, segmentation where the file has it). Annotations marked "ignore" are left out.
    Raises: FileNotFoundError; ValueError naming the file, the image and the annotation that is wrong; see `TRAINING`.
    """
    content = read_annotations(json_file, name)
    ids = sorted(category["id"] for category in content["categories"])
    contiguous = {category_id: index for index, category_id in enumerate(ids)}
    records = {image["id"]: _record(image, image_root) for image in content["images"]}
    ignored = sum(annotation.get("ignore", 0) for annotation in content["annotations"])
    if ignored:
        total = len(content["annotations"])
        logger.info('%s: %d of %d annotations are marked "ignore", and left out.', name, ignored, total)
    for annotation in content["annotations"]:
        if annotation.get("ignore"):
            continue
        records[annotation["image_id"]]["annotations"].append(
            {
                "bbox": annotation["bbox"],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": contiguous[annotation["category_id"]],
                "iscrowd": annotation.get("iscrowd", 0),
                "id": annotation.get("id"),
                **({"segmentation": annotation["segmentation"]} if "segmentation" in annotation else {}),
            }
        )
    if not records:
        raise ValueError(f"{json_file} ({name}) lists no images.")
    return list(records.values())


def read_annotations(json_file: str, name: str, use: Use = TRAINING) -> dict[str, Any]:
    """The content of an annotation file, see `read_annotation_file`; `name` is how errors call the data set.

    Raises: FileNotFoundError with the way to get it; ValueError for a file that cannot be used so.
    """
    if not os.path.isfile(json_file):
        raise FileNotFoundError(f'Data set "{name}" needs {json_file}, which is not there. {remedy(name)}')
    return read_annotation_file(json_file, use)


def remedy(name: str) -> str:
    """How to get the annotation file of a data set that is not there."""
    made_by = DATASETS[name].made_by if name in DATASETS else ""
    if made_by:
        return f"`python tools/prepare_dataset.py {made_by}` makes it from the official files."
    return (
        f"Put the data set below {datasets_root()} or set DETECTRON2_DATASETS; `python tools/doctor.py` shows what is "
        "found."
    )


def _record(image: dict[str, Any], image_root: str) -> dict[str, Any]:
    return {
        "file_name": os.path.join(image_root, str(file_name_of(image))),
        "image_id": image["id"],
        "height": image["height"],
        "width": image["width"],
        "annotations": [],
    }
