"""Data sets in LVIS format: what a file becomes, and one clear message for each thing that can be wrong with it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.structures import Boxes, BoxMode, Instances

from dk_detr.data import (
    DATASETS,
    DataSet,
    categories_of,
    datasets,
    datasets_root,
    load_coco_format,
    register,
    register_all,
)
from dk_detr.engine.evaluate import build_evaluator
from dk_detr.structures import Vocabulary
from tests.run_fixtures import add_box, annotations_of, image_entry, with_urls, write_json

NAME = "a_data_set"


@pytest.fixture
def content() -> dict[str, Any]:
    """Two images, three boxes; the categories have gaps between their ids and are not in order."""
    content = annotations_of([image_entry(7, "train/a.png"), image_entry(3, "train/b.png")])
    for category, number in zip(content["categories"], (20, 5, 11)):
        category["id"] = number
    for image, category, box in ((7, 20, [1, 2, 30, 40]), (7, 5, [5.5, 6.5, 7.5, 8.5]), (3, 11, [0, 0, 64, 64])):
        add_box(content, image, category, box)
    return content


def load(folder: Path, content: Any) -> list[dict[str, Any]]:
    return load_coco_format(write_json(folder / "file.json", content), "images", NAME)


def test_records_say_what_the_file_says(tmp_path: Path, content: dict[str, Any]) -> None:
    first, second = load(tmp_path, content)
    assert (first["file_name"], first["image_id"], first["height"], first["width"]) == ("images/train/a.png", 7, 64, 64)
    assert [a["bbox"] for a in first["annotations"]] == [[1, 2, 30, 40], [5.5, 6.5, 7.5, 8.5]]
    assert {a["bbox_mode"] for a in first["annotations"]} == {BoxMode.XYWH_ABS}
    assert [a["bbox"] for a in second["annotations"]] == [[0, 0, 64, 64]]


def test_classes_count_up_by_ascending_id(tmp_path: Path, content: dict[str, Any]) -> None:
    """Ids 5, 11, 20 are the classes 0, 1, 2."""
    first, second = load(tmp_path, content)
    assert [a["category_id"] for a in first["annotations"] + second["annotations"]] == [2, 0, 1]


def test_categories_come_in_the_order_of_the_classes(tmp_path: Path, content: dict[str, Any]) -> None:
    register(NAME, write_json(tmp_path / "file.json", content), "images")
    assert [(c["id"], c["name"], c["frequency"]) for c in categories_of(NAME)] == [
        (5, "green_box", "c"), (11, "blue_box", "r"), (20, "red_box", "f"),
    ]  # fmt: skip


def test_where_there_is_no_file_name_the_address_gives_it(tmp_path: Path, content: dict[str, Any]) -> None:
    assert [r["file_name"] for r in load(tmp_path, with_urls(content))] == ["images/train/a.png", "images/train/b.png"]


def test_a_crowd_stays_a_crowd(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][0]["iscrowd"] = 1
    first, _ = load(tmp_path, content)
    assert [a["iscrowd"] for a in first["annotations"]] == [1, 0]


def test_what_is_marked_ignore_is_left_out_whatever_its_box(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][0] |= {"ignore": 1, "bbox": [1, 1, 0, 0]}
    content["annotations"][1]["ignore"] = 0
    first, second = load(tmp_path, content)
    assert [len(record["annotations"]) for record in (first, second)] == [1, 1]


def test_an_image_without_boxes_is_a_record(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"] = []
    assert [r["annotations"] for r in load(tmp_path, content)] == [[], []]


def test_a_file_that_was_rewritten_is_read_again(tmp_path: Path, content: dict[str, Any]) -> None:
    assert len(load(tmp_path, content)) == 2
    content["images"].append(image_entry(9, "train/c.png"))
    assert len(load(tmp_path, content)) == 3


# ---- registration ----


def test_data_sets_are_looked_for_below_the_environment_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_all()
        metadata = MetadataCatalog.get("lvis_v1_val")
        assert metadata.json_file == f"{tmp_path}/lvis/lvis_v1_val.json"
        assert metadata.image_root == f"{tmp_path}/coco"
        assert MetadataCatalog.get("mini_lvis_val").image_root == f"{tmp_path}/mini_lvis"
    register_all()


def test_the_root_may_name_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", "~/data")
    assert datasets_root() == f"{tmp_path}/data"
    monkeypatch.delenv("DETECTRON2_DATASETS")
    assert datasets_root() == "datasets"


def test_every_data_set_is_known_to_detectron2() -> None:
    assert set(DATASETS) <= set(DatasetCatalog.list())


DETIC_OF_REGIONCLIP = {
    "coco_2017_ovd_b_train": "coco_zeroshot_train_oriorder",
    "coco_2017_ovd_all_test": "coco_generalized_zeroshot_val",
    "coco_2017_ovd_b_test": "coco_not_zeroshot_val",
    "coco_2017_ovd_t_test": "coco_zeroshot_val",
}


@pytest.mark.parametrize(("alias", "name"), DETIC_OF_REGIONCLIP.items())
def test_regionclips_names_are_aliases_of_detics(alias: str, name: str) -> None:
    one, other = (MetadataCatalog.get(n).as_dict() for n in (alias, name))
    assert {k: v for k, v in one.items() if k != "name"} == {k: v for k, v in other.items() if k != "name"}
    assert one["evaluator_type"] == "ov-coco"


def test_the_files_of_ov_coco_are_where_detic_has_them() -> None:
    files = {name: Path(MetadataCatalog.get(name).json_file).name for name in DETIC_OF_REGIONCLIP.values()}
    assert files == {
        "coco_zeroshot_train_oriorder": "instances_train2017_seen_2_oriorder.json",
        "coco_generalized_zeroshot_val": "instances_val2017_all_2_oriorder.json",
        "coco_not_zeroshot_val": "instances_val2017_seen_2.json",
        "coco_zeroshot_val": "instances_val2017_unseen_2.json",
    }
    assert {Path(MetadataCatalog.get(name).json_file).parent for name in files} == {
        Path(datasets_root(), "coco", "zero-shot")
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lvis_v1_train_norare", "lvis"), ("lvis_v1_val", "lvis"), ("lvis_v1_minival", "lvis"),
        ("coco_zeroshot_train_oriorder", "ov-coco"), ("coco_generalized_zeroshot_val", "ov-coco"),
        ("voc_2007_test", "voc"), ("coco_2017_val", "coco"), ("objects365_v2_val", "objects365"),
    ],
)  # fmt: skip
def test_every_benchmark_says_how_it_is_scored(name: str, kind: str) -> None:
    assert MetadataCatalog.get(name).evaluator_type == kind
    assert MetadataCatalog.get(name).json_file.startswith(datasets_root())


def test_cocos_own_sets_stay_what_detectron2_makes_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With masks, and with the names and colours of Detectron2's metadata, at today's DETECTRON2_DATASETS."""
    categories = [{"id": c["id"], "name": c["name"]} for c in COCO_CATEGORIES if c["isthing"]]
    image = {"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}
    triangle = {"segmentation": [[0, 0, 5, 0, 5, 5]], "area": 12.5, "iscrowd": 0}
    box = {"id": 1, "image_id": 1, "category_id": 90, "bbox": [0, 0, 5, 5], **triangle}
    content = {"images": [image], "annotations": [box], "categories": categories}
    write_json(tmp_path / "coco/annotations/instances_val2017.json", content)
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_all()
        (record,) = DatasetCatalog.get("coco_2017_val")
        assert record["file_name"] == f"{tmp_path}/coco/val2017/1.jpg"
        assert record["annotations"][0]["category_id"] == 79 and "segmentation" in record["annotations"][0]
        assert MetadataCatalog.get("coco_2017_val").thing_classes[79] == "toothbrush"
        assert [c["name"] for c in categories_of("coco_2017_val")] == MetadataCatalog.get("coco_2017_val").thing_classes
    register_all()


def test_another_set_with_cocos_rules_has_its_own_categories_and_is_evaluated_by_cocos_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row of the table that is not COCO. It says nothing of novel names, so the vocabulary does."""
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 90, "height": 90}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 50, 50], "area": 2500, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40, 40, 50, 50], "area": 2500, "iscrowd": 0},
        ],
        "categories": [{"id": 7, "name": "yak"}, {"id": 3, "name": "gnu"}],
    }
    write_json(tmp_path / "zoo/val.json", content)
    monkeypatch.setattr(datasets, "DATASETS", {**DATASETS, "zoo_val": DataSet("zoo/val.json", "zoo/images", "coco")})
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_all()
        (record,) = DatasetCatalog.get("zoo_val")
        assert record["file_name"] == f"{tmp_path}/zoo/images/1.jpg"
        assert [box["category_id"] for box in record["annotations"]] == [1, 0]
        cfg = get_cfg()
        cfg.OUTPUT_DIR = str(tmp_path / "run")
        words = Vocabulary(("gnu", "yak"), torch.eye(2), torch.tensor([True, False]))
        evaluator = build_evaluator(cfg, "zoo_val", words)
        found = Instances((90, 90), pred_boxes=Boxes([[0, 0, 50, 50]]), scores=torch.ones(1))
        found.pred_classes = torch.tensor([1])
        evaluator.process([{"image_id": 1}], [{"instances": found}])
        result = (evaluator.evaluate() or {})["bbox"]
        assert (result["AP"], result["AP-base"], result["AP-novel"]) == pytest.approx((50, 100, 0))
        assert "APr" not in result
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("zoo_val")
    register_all()


def test_registering_again_replaces(tmp_path: Path, content: dict[str, Any]) -> None:
    register(NAME, "nowhere.json", "images")
    register(NAME, write_json(tmp_path / "file.json", content), "pictures")
    assert DatasetCatalog.get(NAME)[0]["file_name"] == "pictures/train/a.png"


# ---- refusals ----


def refusal(folder: Path, content: Any) -> str:
    with pytest.raises(ValueError) as error:
        load(folder, content)
    assert str(folder / "file.json") in str(error.value)
    return str(error.value)


def test_an_unknown_data_set_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match='no data set "lvis_v1_vall".*lvis_v1_val,'):
        categories_of("lvis_v1_vall")


def test_a_missing_file_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "somewhere")
    message = r'Data set "a_data_set" needs nowhere.json.*below somewhere or set DETECTRON2_DATASETS.*tools/doctor.py'
    with pytest.raises(FileNotFoundError, match=message):
        load_coco_format("nowhere.json", "images", NAME)


def test_a_missing_split_file_is_refused_with_the_command_that_makes_it() -> None:
    message = "ov-coco` makes it from the official files"
    with pytest.raises(FileNotFoundError, match=message):
        categories_of("coco_2017_ovd_all_test")


def test_a_data_set_of_detectron2_without_such_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match='"voc_2012_val".*has no annotation file in COCO format'):
        categories_of("voc_2012_val")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_file_that_is_cut_short_is_refused(share: float, tmp_path: Path, content: dict[str, Any]) -> None:
    whole = json.dumps(content)
    (tmp_path / "file.json").write_text(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"{tmp_path}/file.json is no whole JSON file"):
        load_coco_format(str(tmp_path / "file.json"), "images", NAME)


@pytest.mark.parametrize("content", [{"images": [], "categories": []}, [], {}])
def test_a_file_of_another_format_is_refused(content: Any, tmp_path: Path) -> None:
    message = refusal(tmp_path, content)
    assert "annotations" in message and "not in LVIS or COCO format" in message


def test_a_file_without_images_is_refused(tmp_path: Path) -> None:
    assert "lists no images" in refusal(tmp_path, annotations_of([]))


def test_a_box_of_an_unknown_category_is_refused_by_annotation_image_and_category(
    tmp_path: Path, content: dict[str, Any]
) -> None:
    content["annotations"][1]["category_id"] = 99
    message = refusal(tmp_path, content)
    assert "image 7 (train/a.png), annotation 2, category 99: its category 99 is not in the file" in message


def test_a_box_of_an_unknown_image_is_refused_by_annotation_and_image(tmp_path: Path, content: dict[str, Any]) -> None:
    content["annotations"][1]["image_id"] = 99
    assert "annotation 2: its image 99 is not in the file" in refusal(tmp_path, content)


@pytest.mark.parametrize(
    ("box", "wrong"),
    [
        ([10, 20, 0, 25], "has no width"),
        ([10, 20, -3, 25], "has no width"),
        ([10, 20, 30, 0], "has no height"),
        ([10, 20, float("nan"), 25], "has numbers that are not finite"),
    ],
)
def test_a_box_without_area_is_refused_by_annotation_image_and_numbers(
    box: list[float], wrong: str, tmp_path: Path, content: dict[str, Any]
) -> None:
    content["annotations"][2]["bbox"] = box
    message = refusal(tmp_path, content)
    assert "image 3 (train/b.png), annotation 3" in message and wrong in message
    assert f"(x {box[0]}, y {box[1]}, w {box[2]}, h {box[3]})" in message


@pytest.mark.parametrize("key", ["bbox", "category_id", "image_id"])
def test_an_annotation_without_a_field_is_refused_by_annotation_and_field(
    key: str, tmp_path: Path, content: dict[str, Any]
) -> None:
    del content["annotations"][1][key]
    message = refusal(tmp_path, content)
    assert "annotation 2" in message and key in message
