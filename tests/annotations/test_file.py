"""What an annotation file says is read the same by training, check, evaluation and preparation, and nothing of it is
lost without a word."""

import copy
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detectron2.config import get_cfg
from pycocotools import mask as mask_util

from dk_detr import add_dk_detr_config
from dk_detr.annotations import EVALUATION, SPLITTING, TRAINING, read_annotation_file, read_categories
from dk_detr.annotations.records import flag, whole
from dk_detr.data import build_train_stream, load_coco_format, register, train_records
from dk_detr.data.check import check_annotations
from dk_detr.data.masks import check_masks
from dk_detr.data.prepare import split_custom
from dk_detr.evaluation import evaluate_file
from tests.annotations.test_grid import RESULTS, SOUND
from tests.run_fixtures import write_json

Content = dict[str, Any]


@pytest.fixture
def content() -> Content:
    return copy.deepcopy(SOUND)


def load(folder: Path, content: Content) -> list[dict[str, Any]]:
    return load_coco_format(write_json(folder / "b.json", content), "img", "b")


def ap50(folder: Path, content: Content, protocol: str = "coco", results: Any = RESULTS, **options: Any) -> float:
    files = write_json(folder / "b.json", content), write_json(folder / "p.json", results)
    return next(iter(evaluate_file(*files, protocol, **options).values()))["AP50"]


def test_two_images_that_share_an_id_are_refused_wherever_the_file_is_read(tmp_path: Path, content: Content) -> None:
    content["images"][1]["id"] = content["annotations"][1]["image_id"] = 1
    file = write_json(tmp_path / "b.json", content)
    uses: list[Callable[[], Any]] = [
        lambda: load(tmp_path, content), lambda: ap50(tmp_path, content),
        lambda: split_custom(file, str(tmp_path / "parts")),
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(ValueError, match=r"b.json, image 1 \(2.png\): its id is already that of 1.png"):
            use()
    assert not (tmp_path / "parts").exists()


# ---- flags ----


@pytest.mark.parametrize("no", [0, 0.0, False, "0", "false", "False", "", None])
@pytest.mark.parametrize("key", ["iscrowd", "ignore", "difficult"])
@pytest.mark.parametrize("protocol", ["voc", "coco"])
def test_a_flag_that_says_no_says_no_in_training_and_scoring(
    no: Any, key: str, protocol: str, tmp_path: Path, content: Content
) -> None:
    for annotation in content["annotations"]:
        annotation[key] = no
    assert ap50(tmp_path, content, protocol) == pytest.approx(100)
    assert ap50(tmp_path, content, protocol, RESULTS[:1]) == pytest.approx(50), "the object that is missed is counted"
    records = load(tmp_path, content)
    assert [[box["iscrowd"] for box in record["annotations"]] for record in records] == [[0], [0]]


@pytest.mark.parametrize("yes", [1, 1.0, True, "1", "true", "TRUE"])
def test_a_flag_that_says_yes_says_yes_in_training_and_scoring(yes: Any, tmp_path: Path, content: Content) -> None:
    content["annotations"][1]["ignore"] = content["annotations"][1]["difficult"] = yes
    assert ap50(tmp_path, content, "voc", RESULTS[:1]) == pytest.approx(100), "what is ignored need not be found"
    assert [len(record["annotations"]) for record in load(tmp_path, content)] == [1, 0]
    del content["annotations"][1]["ignore"]
    content["annotations"][1]["iscrowd"] = yes
    assert [record["annotations"][0]["iscrowd"] for record in load(tmp_path, content)] == [0, 1]


@pytest.mark.parametrize("value", [2, -1, "yes", "2", [], {}, [0], float("nan")])
def test_a_flag_that_is_neither_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="wanted 0 or 1"):
        flag(value)


@pytest.mark.parametrize("value", [True, None, "1", 1.5, float("nan"), float("inf"), 2**63, 10**400, [1]])
def test_what_is_no_whole_number_of_64_bits_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="wanted a whole number"):
        whole(value)
    assert [whole(value) for value in (3, 3.0, -(2**63) + 1)] == [3, 3, -(2**63) + 1]


# ---- what is left out is said ----


def test_crowds_that_are_not_trained_on_are_counted(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    content["annotations"][1]["iscrowd"] = 1
    register("b", write_json(tmp_path / "b.json", content), "img", "coco")
    with caplog.at_level(logging.WARNING):
        assert len(train_records(["b"])) == 1
    assert "1 of 2 annotations of b are crowds (iscrowd 1), and are not trained on." in caplog.text


def test_ignored_annotations_that_are_left_out_are_counted(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    content["annotations"][1]["ignore"] = "1"
    with caplog.at_level(logging.INFO):
        load(tmp_path, content)
    assert 'b: 1 of 2 annotations are marked "ignore", and left out.' in caplog.text


def test_images_without_a_detection_are_counted(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "dk_detr"):
        assert ap50(tmp_path, content) == pytest.approx(100) and not caplog.text
        assert ap50(tmp_path, content, results=RESULTS[:1]) == pytest.approx(50)
    assert "1 of 2 images of" in caplog.text and "have no detection in" in caplog.text


def test_objects_with_an_area_of_0_that_lvis_does_not_score_are_counted(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    for image, category in zip(content["images"], content["categories"]):
        image.update(neg_category_ids=[], not_exhaustive_category_ids=[])
        category["frequency"] = "f"
    content["annotations"][0]["area"] = 0
    ap50(tmp_path, content, "lvis")
    assert "1 of 2 objects have an area of 0 and are not evaluated" in caplog.text
    defects = check_annotations(str(tmp_path / "b.json"), str(tmp_path))
    (defect,) = (defect for defect in defects if defect.message.startswith("its area"))
    assert defect.annotation_id == 1 and not defect.kind.is_note


# ---- words ----


def test_names_that_are_the_same_words_are_refused_for_training(tmp_path: Path, content: Content) -> None:
    content["categories"][0]["name"], content["categories"][1]["name"] = "Paper_Cup", "paper  cup"
    with pytest.raises(ValueError, match='"paper  cup" and "Paper_Cup", category 1, are the same words'):
        load(tmp_path, content)
    assert ap50(tmp_path, content) == pytest.approx(100), "for evaluation they are two"


# ---- masks ----


def test_a_polygon_far_out_of_its_image_is_refused_before_it_is_drawn(tmp_path: Path, content: Content) -> None:
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    masks = [{**found, "segmentation": box["segmentation"]} for found, box in zip(RESULTS, content["annotations"])]
    assert ap50(tmp_path, content, results=masks, iou_type="segm") == pytest.approx(100)
    far = [[4, 4, 3e8, 4, 24, 24]]
    with pytest.raises(ValueError, match="p.json, result 1 has a polygon that lies far out of its image of 64 x 64"):
        ap50(tmp_path, content, results=[masks[0], {**masks[1], "segmentation": far}], iou_type="segm")
    content["annotations"][1]["segmentation"] = far
    with pytest.raises(ValueError, match="annotation 2: its polygons reach from 4 to 300000000"):
        ap50(tmp_path, content, results=masks, iou_type="segm")
    assert ap50(tmp_path, content, results=masks) == pytest.approx(100), "where boxes are scored it is not drawn"


@pytest.mark.parametrize("counts", [[10**12], [-1, 4097], [0.5, 4095.5], [64], [], ["4096"]])
def test_runs_that_do_not_fill_the_image_are_refused(counts: Any, tmp_path: Path, content: Content) -> None:
    for annotation in content["annotations"]:
        annotation["segmentation"] = [[4, 4, 24, 4, 24, 24]]
    masks = [{**found, "segmentation": {"size": [64, 64], "counts": counts}} for found in RESULTS]
    with pytest.raises(ValueError, match=r"p.json, result 0 has"):
        ap50(tmp_path, content, results=masks, iou_type="segm")


def test_training_masks_leaves_short_polygons_out_and_refuses_objects_without_one(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    cfg.MODEL.MASK_ON = True
    triangle = [4, 4, 24, 4, 24, 24]
    for annotation, outline in zip(content["annotations"], ([triangle, [1, 2, 3, 4]], [triangle])):
        annotation["segmentation"] = outline
    records = load(tmp_path, content)
    build_train_stream(cfg, records, dict, 0)
    assert records[0]["annotations"][0]["segmentation"] == [triangle]
    assert "1 polygons have fewer than three points" in caplog.text
    assert "Image img/1.png (id 1) has an object at [4, 4, 20, 20] (annotation 1)" in caplog.text
    content["annotations"][1]["segmentation"] = [[1, 2, 3, 4]]
    with pytest.raises(ValueError, match=r"Image img/2.png \(id 2\) has an object at .* without a polygon"):
        build_train_stream(cfg, load(tmp_path, content), dict, 0)


def a_record(segmentation: object, crowd: int = 0) -> dict[str, object]:
    of_object = {"bbox": [4, 4, 20, 20], "iscrowd": crowd, "id": 7, "segmentation": segmentation}
    return {"file_name": "a.png", "image_id": 3, "height": 64, "width": 48, "annotations": [of_object]}


WHOLE = {"size": [64, 48], "counts": [0, 64 * 48]}


@pytest.mark.parametrize(
    ("segmentation", "mask_format", "fault"),
    [
        (WHOLE, "polygon", 'INPUT.MASK_FORMAT is "polygon": set it to "bitmask"'),
        ({**WHOLE, "size": [48, 64]}, "bitmask", r"a mask of \[48, 64\] \(height, width\) in an image of \[64, 48\]"),
        ({**WHOLE, "counts": [0, 5]}, "bitmask", "a mask whose runs do not fill its image"),
        ({**WHOLE, "counts": "abc"}, "bitmask", "a mask whose runs do not fill its image"),
        ([[0, 0, 9e8, 0, 5, 5]], "polygon", "a polygon far out of the 48 x 64 pixels"),
        (None, "polygon", "without a polygon of three points or a mask"),
    ],
)
def test_a_mask_that_cannot_be_drawn_is_refused_before_training(
    segmentation: object, mask_format: str, fault: str
) -> None:
    with pytest.raises(ValueError, match=rf"Image a.png \(id 3\) has an object at .* \(annotation 7\) .*{fault}"):
        check_masks([a_record(segmentation)], mask_format)
    check_masks([a_record(segmentation, crowd=1)], mask_format)


def test_run_lengths_train_as_bitmaps() -> None:
    records = [a_record(WHOLE)]
    check_masks(records, "bitmask")
    assert mask_util.decode(records[0]["annotations"][0]["segmentation"]).all()
    with pytest.raises(ValueError, match="INPUT.MASK_FORMAT"):
        check_masks(records, "bitmap")


# ---- preparation ----


def test_annotations_in_and_out_add_up_or_are_told(tmp_path: Path, content: Content) -> None:
    train, val = split_custom(write_json(tmp_path / "b.json", content), str(tmp_path), ["jar"], val_share=0.5)
    kept = sum(len(json.loads(Path(part.path).read_text())["annotations"]) for part in (train, val))
    novel = 2 - kept
    assert f"{novel} are of novel names" in train.report() and "0 are of novel names" in val.report()


@pytest.mark.parametrize("image_id", ["1", "one", None, 1.5, 3])
def test_an_annotation_of_no_image_is_not_lost_in_preparation(image_id: Any, tmp_path: Path, content: Content) -> None:
    content["annotations"][1]["image_id"] = image_id
    with pytest.raises(ValueError, match=r"b.json.*annotation 2: its (image_id|image 3) is"):
        split_custom(write_json(tmp_path / "b.json", content), str(tmp_path / "parts"), val_share=0.5)
    assert not (tmp_path / "parts").exists()


def test_a_file_that_two_images_share_is_told(
    tmp_path: Path, content: Content, caplog: pytest.LogCaptureFixture
) -> None:
    content["images"][1]["file_name"] = "1.png"
    assert len(load(tmp_path, content)) == 2
    assert "image 2 (1.png): its file is already that of image 1" in caplog.text


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (3, "lists no categories"),
        ([], "lists no categories"),
        ([None], "number 1 of categories: it is None; wanted an object"),
        ([{"id": 1, "name": 7}], "number 1 of categories: its name is 7; wanted a word"),
        ([{"id": 1, "name": "cup"}, {"id": "2", "name": "jar"}], "number 2 of categories: its id is '2'"),
        ([{"id": 1, "name": "cup"}, {"id": 1, "name": "jar"}], '"jar" has the id 1 of "cup"'),
    ],
)
def test_categories_that_are_none_are_refused_for_vocabularies(categories: Any, message: str, tmp_path: Path) -> None:
    for content in (categories, {"categories": categories}):
        with pytest.raises(ValueError, match=f"c.json.*{message}"):
            read_categories(write_json(tmp_path / "c.json", content))


def test_categories_come_by_ascending_id_with_or_without_the_rest_of_the_file(tmp_path: Path, content: Content) -> None:
    content["categories"].reverse()
    for file in (content, content["categories"]):
        names = [category["name"] for category in read_categories(write_json(tmp_path / "c.json", file))]
        assert names == ["cup", "jar"]


def test_a_file_is_parsed_once_for_training_and_scoring(
    tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of LVIS is large."""
    file, parsed = write_json(tmp_path / "b.json", content), list[str]()

    def counted(path: str, what: str) -> Any:
        parsed.append(path)
        return json.loads(Path(path).read_text())

    monkeypatch.setattr("dk_detr.annotations.file.read_json", counted)
    for use in (TRAINING, EVALUATION, SPLITTING, TRAINING):
        read_annotation_file(file, use)
    assert parsed == [file]
