"""Files of results: what is wrong in them is said in one line; tables; and the same numbers as from memory."""

from __future__ import annotations

import csv
import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from dk_detr.evaluation import OpenVocabularyEvaluator, evaluate_file, results_file
from dk_detr.evaluation import results as results_module
from dk_detr.evaluation.matching import pairs_that_overlap
from dk_detr.utils import read_json_list
from tests.evaluation.random_worlds import random_world, write


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    return random_world(tmp_path, 0)


def load(path: str) -> list:
    return json.loads(Path(path).read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 4711}, "result 2: .*annotations.json has no image 4711"),
        ({"category_id": 99}, "result 2: .*annotations.json has no category 99"),
        ({"score": None}, 'result 2 has no number "score"'),
        ({"score": float("nan")}, "result 2: its score is not finite"),
        ({"bbox": None}, 'result 2 has no "bbox", which evaluation by "bbox" needs'),
        ({"bbox": [1, 2, 3]}, r"result 2 has the box \[1, 2, 3\]; wanted \[x, y, width, height\]"),
        ({"bbox": [1, 2, "a", 3]}, r"result 2 has the box \[1, 2, 'a', 3\]"),
        ({"bbox": [1, 2, float("nan"), 3]}, r"result 2 has the box \[1, 2, nan, 3\]"),
        ({"image_id": 1.5}, "result 2: its image_id is 1.5; wanted a whole number"),
        ({"category_id": "1"}, 'result 2 has no number "category_id"'),
    ],
)
def test_a_wrong_result_is_named(files, tmp_path, change, message):
    rows = load(files[1])
    rows[2] |= change
    with pytest.raises(ValueError, match=message):
        evaluate_file(files[0], write(tmp_path / "wrong.json", rows), "coco")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "file of results .*wrong.json is no whole JSON file"),
        ('{"bbox": {}}', "wrong.json holds a dict; results are a list"),
        ("[1]", 'result 0 has no number "image_id": 1'),
        ("", "no whole JSON file"),
    ],
)
def test_what_is_no_list_of_results_is_refused(files, tmp_path, text, message):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_file(files[0], str(tmp_path / "wrong.json"), "coco")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "wrong.json holds a list, no object with images, annotations and categories"),
        ('{"images": 3, "annotations": [], "categories": []}', 'wrong.json: its "images" is 3, no list'),
        ('{"images": [{"id": 1}], "annotations": null, "categories": []}', 'its "annotations" is None, no list'),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "wrong.json lists no categories"),
        ('{"images": [], "annotations": [], "categories": []}', "wrong.json lists no categories"),
        ('{"images": [', "annotation file .*wrong.json is no whole JSON file"),
    ],
)
def test_what_is_no_annotation_file_is_refused(files, tmp_path, text, message):
    (tmp_path / "wrong.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        evaluate_file(str(tmp_path / "wrong.json"), files[1], "coco")


@pytest.mark.parametrize(
    ("key", "row", "message"),
    [
        ("images", {"id": "one"}, "number 2 of images: its id is 'one'; wanted a whole number"),
        ("images", {"id": None}, "number 2 of images: its id is None; wanted a whole number"),
        ("images", {"height": "tall"}, "its height is 'tall'; wanted a whole number"),
        ("images", {"neg_category_ids": ["x"]}, r"its neg_category_ids is \['x'\]; wanted a list of category ids"),
        ("images", {"neg_category_ids": 3}, "its neg_category_ids is 3; wanted a list of category ids"),
        ("categories", {"name": None}, "its name is None; wanted a word"),
        ("categories", {"name": 7}, "its name is 7; wanted a word"),
        ("annotations", {"category_id": None}, "annotation 2: its category_id is None"),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotation 2: its bbox is \[1, 2, 3\]; wanted four numbers"),
        ("annotations", {"area": "large"}, "annotation 2: its area is 'large'; wanted a finite number"),
        ("annotations", {"iscrowd": "perhaps"}, "annotation 2: its iscrowd is 'perhaps'; wanted 0 or 1"),
    ],
)
def test_a_wrong_row_of_the_annotation_file_is_named(files, tmp_path, key, row, message):
    content = load(files[0])
    content[key][1] |= row
    with pytest.raises(ValueError, match=f"wrong.json.*{message}"):
        evaluate_file(write(tmp_path / "wrong.json", content), files[1], "coco")


KIND = {"images": "image", "categories": "category"}


@pytest.mark.parametrize("key", ["images", "categories"])
def test_ids_that_stand_twice_are_refused(files, tmp_path, key):
    content = load(files[0])
    content[key].append(content[key][2])
    with pytest.raises(ValueError, match=f"{KIND[key]} {content[key][2]['id']}.*(already that of|has the id of)"):
        evaluate_file(write(tmp_path / "wrong.json", content), files[1], "coco")


def test_categories_of_the_same_name_count_one_by_one(files, tmp_path):
    content = load(files[0])
    named = {row["id"]: row["name"] for row in content["categories"]}
    first, second = sorted(named)[1:3]  # ascending, as in the table
    for row in content["categories"]:
        row["name"] = "twin" if row["id"] in (first, second) else row["name"]
    ours = evaluate_file(write(tmp_path / "twins.json", content), files[1], "coco", novel=["twin"])["bbox"]
    apart = evaluate_file(*files, "coco", novel=[named[first], named[second]])["bbox"]
    assert ours == pytest.approx(apart, nan_ok=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("image_id", "its image 4711 is not in the file"),
        ("category_id", "its category 4711 is not in the file"),
    ],
)
def test_annotations_of_unknown_images_and_categories_are_refused(files, tmp_path, key, message):
    content = load(files[0])
    content["annotations"][3][key] = 4711
    with pytest.raises(ValueError, match=f"annotation 4.*{message}"):
        evaluate_file(write(tmp_path / "wrong.json", content), files[1], "coco")


def test_absent_files_and_unknown_words_are_named(files):
    with pytest.raises(FileNotFoundError, match="no annotation file nowhere.json"):
        evaluate_file("nowhere.json", files[1], "coco")
    with pytest.raises(FileNotFoundError, match="no file of results nowhere.json"):
        evaluate_file(files[0], "nowhere.json", "coco")
    with pytest.raises(ValueError, match='no protocol "cocoa"; choose one of lvis'):
        evaluate_file(*files, "cocoa")
    with pytest.raises(ValueError, match='no IoU type "mask"; choose one of bbox, segm'):
        evaluate_file(*files, "coco", iou_type="mask")
    with pytest.raises(ValueError, match='Group "novel": 1 not in .*"unicorn"'):
        evaluate_file(*files, "coco", novel=["unicorn"])


def test_masks_must_be_there_whole_and_of_the_size_of_their_image(files, tmp_path):
    rows = load(files[1])
    with pytest.raises(ValueError, match='result 0 has no "segmentation", which evaluation by "segm" needs'):
        evaluate_file(*files, "coco", iou_type="segm")
    for wrong, message in (
        ({"size": [3, 3], "counts": "abc"}, r"a mask of \[3, 3\] \(height, width\) in an image of \[200, 200\]"),
        ({"size": 3}, "neither polygons"),
        ([1, 2, 3, 4, 5, 6], "a polygon that is no list of numbers"),
        ([[1, 2, 3, 4]], "a polygon of 4 numbers; three points have 6"),
        ({"size": [200, 200], "counts": [3, "a"]}, "runs that are no list of numbers"),
        ({"size": [200, 200], "counts": [3, 4]}, "a mask whose runs do not fill its image"),
        ({"size": [200, 200], "counts": [-3, 40003]}, "a mask whose runs do not fill its image"),
        ({"size": [200, 200], "counts": "abc"}, "a mask whose runs do not fill its image"),
    ):
        rows[0]["segmentation"] = wrong
        for row in rows[1:]:
            row["segmentation"] = [[0, 0, 10, 0, 10, 10]]
        with pytest.raises(ValueError, match=f"result 0 has .*{message}"):
            evaluate_file(files[0], write(tmp_path / "wrong.json", rows), "coco", iou_type="segm")


def test_masks_need_the_size_of_their_image(files, tmp_path):
    content = load(files[0])
    for row in content["images"]:
        del row["height"]
    with pytest.raises(ValueError, match="a mask in an image of which the file does not tell height and width"):
        evaluate_file(write(tmp_path / "sizeless.json", content), files[1], "coco", iou_type="segm")


def test_rare_is_novel_in_lvis_and_nothing_is_elsewhere_unless_it_is_said(files):
    lvis, coco = (evaluate_file(*files, protocol)["bbox"] for protocol in ("lvis", "coco"))
    assert lvis["AP-novel"] == lvis["APr"]
    assert np.isnan(coco["AP-novel"]) and coco["AP-base"] == coco["AP"]


def test_no_results_at_all_score_zero(files, tmp_path):
    for protocol in ("lvis", "lvis-fixed", "coco", "voc", "objects365"):
        result = evaluate_file(files[0], write(tmp_path / "none.json", []), protocol)["bbox"]
        assert result["AP50"] == result["AR@100"] == 0, protocol


@pytest.mark.parametrize("protocol", ["lvis", "lvis-fixed", "coco", "ov-coco", "voc", "objects365"])
def test_from_memory_and_from_a_file_the_numbers_are_the_same(files, tmp_path, protocol):
    truth, rows = load(files[0]), load(files[1])
    names = {row["id"]: row["name"] for row in truth["categories"]}
    order = list(names)  # not ascending
    words, novel = list(names.values()), [names[order[0]]]
    evaluator = OpenVocabularyEvaluator(protocol, files[0], words, novel, output_dir=str(tmp_path))
    for image in truth["images"]:
        found = [row for row in rows if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in found]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((200, 200), pred_boxes=Boxes(boxes), scores=torch.tensor([row["score"] for row in found]))
        instances.pred_classes = torch.tensor([order.index(row["category_id"]) for row in found], dtype=torch.long)
        evaluator.process([{"image_id": image["id"]}], [{"instances": instances}])
    from_memory = evaluator.evaluate()
    written = str(tmp_path / results_file(protocol))
    for results in (files[1], written):
        from_file = evaluate_file(files[0], results, protocol, novel=[names[order[0]]])
        assert from_file["bbox"] == pytest.approx(from_memory["bbox"], nan_ok=True)


def test_the_tables_have_a_row_per_category_with_counts(files, tmp_path):
    evaluate_file(*files, "coco", novel=["thing 3"], output_dir=str(tmp_path / "out"))
    rows = list(csv.DictReader((tmp_path / "out" / "coco_categories.csv").open()))
    truth, found = load(files[0]), load(files[1])
    assert list(rows[0]) == ["name", "frequency", "novel", "images", "ground_truth", "detections", "AP", "AP50"]
    for row, category in zip(rows, sorted(truth["categories"], key=lambda one: one["id"]), strict=True):
        own = [thing for thing in truth["annotations"] if thing["category_id"] == category["id"]]
        counts = len({thing["image_id"] for thing in own}), len(own)
        detections = sum(one["category_id"] == category["id"] for one in found)
        assert row["name"] == category["name"] and row["novel"] == str(int(row["name"] == "thing 3"))
        assert (int(row["images"]), int(row["ground_truth"]), int(row["detections"])) == (*counts, detections)
    lines = (tmp_path / "out" / "coco_categories.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == list(rows[0].values())
    assert len(lines) == 2 + len(rows)


def test_fixed_ap_is_printed_beside_the_usual_one_and_few_detections_are_warned_of(files, caplog):
    with caplog.at_level(logging.INFO):
        result = evaluate_file(*files, "lvis-fixed")["bbox"]
    assert {"AP", "APr", "AP-novel", "AP@300", "APr@300", "AP-novel@300"} <= set(result)
    assert "AP@300" in caplog.text and "at most 300 detections" in caplog.text


def test_large_sets_are_matched_in_portions_with_the_same_result(files, monkeypatch):
    whole = evaluate_file(*files, "coco")["bbox"]
    monkeypatch.setattr("dk_detr.evaluation.matching.PAIRS_AT_ONCE", 7)
    assert evaluate_file(*files, "coco")["bbox"] == pytest.approx(whole, nan_ok=True)


def test_only_what_is_of_one_group_meets() -> None:
    boxes = np.array([[0, 0, 10, 10]] * 4, dtype=float)
    pairs = pairs_that_overlap(boxes, np.array([1, 1, 2, 9]), boxes, np.array([0, 1, 2, 2]), np.zeros(4, bool), 0.5)
    assert list(zip(pairs.detection.tolist(), pairs.object.tolist())) == [(0, 1), (1, 1), (2, 2), (2, 3)]


def test_a_wrong_result_is_named_by_its_number_in_a_file_that_is_read_in_portions(files, tmp_path, monkeypatch):
    monkeypatch.setattr(results_module, "read_json_list", partial(read_json_list, chunk=300))
    rows = load(files[1])
    in_portions = evaluate_file(*files, "coco")["bbox"]
    rows[100] |= {"image_id": 4711}
    with pytest.raises(ValueError, match="result 100: .*has no image 4711"):
        evaluate_file(files[0], write(tmp_path / "wrong.json", rows), "coco")
    monkeypatch.undo()
    assert in_portions == pytest.approx(evaluate_file(*files, "coco")["bbox"], nan_ok=True)
