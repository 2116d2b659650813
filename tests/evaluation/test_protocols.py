"""OV-COCO, VOC, Objects365 and recall, counted by hand; and what is no file for a protocol."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from detectron2.evaluation.pascal_voc_evaluation import voc_eval

from dk_detr.evaluation import evaluate_file
from tests.evaluation.random_worlds import write

NAMES = ("person", "bicycle", "cat")
BOX, ELSEWHERE = [10, 10, 40, 40], [100, 100, 40, 40]  # xywh


def world(folder: Path, objects, found, num_images=1, names=NAMES) -> tuple[str, str]:
    """Objects as (image, category, box, more of an annotation), detections as (image, category, box, score)."""
    annotations = [
        {"id": i, "image_id": image, "category_id": k, "bbox": box, "area": box[2] * box[3], "iscrowd": 0, **more}
        for i, (image, k, box, more) in enumerate(objects, start=1)
    ]
    images = [{"id": i, "height": 200, "width": 200} for i in range(1, num_images + 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    rows = [{"image_id": i, "category_id": k, "bbox": box, "score": score} for i, k, box, score in found]
    return write(folder / "a.json", content), write(folder / "r.json", rows)


# ---- OV-COCO ----


def test_hand_counted_ov_coco_gives_hand_counted_ap50(tmp_path):
    objects = [(1, 1, BOX, {}), (2, 1, BOX, {}), (1, 2, ELSEWHERE, {}), (2, 3, ELSEWHERE, {})]
    shifted = [100, 100, 40, 32]  # IoU .80: a hit at .50 and .75
    found = [(1, 1, BOX, 0.9), (1, 1, ELSEWHERE, 0.8), (2, 1, BOX, 0.7), (2, 3, shifted, 0.3)]
    result = evaluate_file(*world(tmp_path, objects, found, 2), "ov-coco", novel=["cat"])["bbox"]
    person = (51 + 50 * 2 / 3) / 101  # hit, false alarm, hit: precision 1 up to recall 1/2, then 2/3
    assert result["AP50-base"] == pytest.approx(100 * (person + 0) / 2)  # the bicycle is missed
    assert result["AP50-novel"] == pytest.approx(100)
    assert result["AP50"] == pytest.approx(100 * (person + 0 + 1) / 3)
    assert result["AP-novel"] == pytest.approx(70)


def test_cocos_own_file_is_not_scored_as_ov_coco(tmp_path):
    names = [f"thing {i}" for i in range(66)]
    files = world(tmp_path, [(1, k, BOX, {}) for k in range(1, 67)], [], names=names)
    with pytest.raises(ValueError, match="objects of 66 categories; OV-COCO evaluates 65.*prepare_dataset.py ov-coco"):
        evaluate_file(*files, "ov-coco", novel=["thing 3"])
    assert evaluate_file(*files, "coco")["bbox"]["AP"] == 0


# ---- VOC ----


def test_hand_counted_voc_takes_the_best_precision_at_eleven_recalls(tmp_path):
    objects = [(1, 1, BOX, {}), (2, 1, BOX, {}), (3, 1, BOX, {})]
    found = [(1, 1, BOX, 0.9), (1, 1, ELSEWHERE, 0.8), (2, 1, [10, 10, 40, 25], 0.7)]  # the last has IoU .625
    result = evaluate_file(*world(tmp_path, objects, found, 3), "voc")["bbox"]
    # IoU .5: recall 1/3 at precision 1 (recalls 0 to .3: 4 points), 2/3 at 2/3 (.4 to .6: 3 points), then nothing.
    assert result["AP50"] == pytest.approx(100 * (4 * 1 + 3 * 2 / 3) / 11)
    assert result["AP75"] == pytest.approx(100 * 4 / 11)
    assert "AP" not in result and result["AP50-base"] == result["AP50"] and math.isnan(result["AP75-novel"])


@pytest.mark.parametrize("mark", ["difficult", "ignore"])
def test_difficult_objects_are_neither_missed_nor_false(tmp_path, mark):
    objects = [(1, 1, BOX, {}), (1, 1, ELSEWHERE, {mark: 1})]
    found = [(1, 1, ELSEWHERE, 0.9), (1, 1, ELSEWHERE, 0.8), (1, 1, BOX, 0.5)]
    assert evaluate_file(*world(tmp_path, objects, found), "voc")["bbox"]["AP50"] == pytest.approx(100)


def test_in_voc_a_second_detection_of_an_object_is_false_even_if_another_object_is_near(tmp_path):
    near = [14, 10, 40, 40]  # IoU .818 with BOX
    objects = [(1, 1, BOX, {}), (1, 1, near, {})]
    found = [(1, 1, BOX, 0.9), (1, 1, [11, 10, 40, 40], 0.8)]  # both mean BOX
    files = world(tmp_path, objects, found)
    assert evaluate_file(*files, "voc")["bbox"]["AP50"] == pytest.approx(100 * 6 / 11)  # recall 1/2: 6 points
    assert evaluate_file(*files, "coco")["bbox"]["AP50"] == pytest.approx(100)  # COCO gives it the other


def test_in_voc_a_detection_between_two_objects_means_the_first_of_the_file(tmp_path):
    objects = [(1, 1, [10, 10, 40, 40], {}), (1, 1, [18, 10, 40, 40], {"difficult": 1})]
    middle = [(1, 1, [14, 10, 40, 40], 0.9)]  # IoU .818 with both
    assert evaluate_file(*world(tmp_path, objects, middle), "voc")["bbox"]["AP50"] == pytest.approx(100)
    assert evaluate_file(*world(tmp_path, objects[::-1], middle), "voc")["bbox"]["AP50"] == 0  # means the difficult one


def test_an_overlap_of_exactly_one_half_finds_and_three_of_ten_reach_recall_three_tenths(tmp_path):
    objects = [(image, 1, BOX, {}) for image in range(1, 11)]
    found = [(image, 1, [10, 10, 40, 20], 1 - image / 100) for image in range(1, 4)]
    result = evaluate_file(*world(tmp_path, objects, found, 10), "voc")["bbox"]
    assert result["AP50"] == pytest.approx(100 * 4 / 11)  # recalls 0, .1, .2, .3


def test_voc_numbers_are_those_of_detectron2(tmp_path):
    """Where no overlap is exactly .5 and no recall a tenth; see `VOC` for these."""
    dice, objects, found = np.random.default_rng(0), [], []
    for image in range(1, 8):
        xmin, ymin = dice.integers(1, 100, 2)
        for x in (xmin, xmin + 15):
            difficult = int(x != xmin and dice.random() < 0.9)
            objects.append((image, 1, [int(x) - 1, int(ymin) - 1, 40, 50], {"difficult": difficult}))
        for _ in range(12):
            corner, size = np.array([xmin, ymin]) + dice.normal(4, 8, 2), [40, 50] + dice.normal(0, 6, 2)
            found.append((image, 1, [*corner.tolist(), *size.tolist()], float(dice.random())))
    assert sum(1 - more["difficult"] for *_, more in objects) % 10
    ours = evaluate_file(*world(tmp_path, objects, found, 7), "voc")["bbox"]
    for metric, iou in (("AP50", 0.5), ("AP75", 0.75)):
        wanted = voc_eval(*voc_files(tmp_path, objects, found), "person", ovthresh=iou, use_07_metric=True)[2]
        assert ours[metric] == pytest.approx(100 * wanted, abs=1e-6)
        assert 5 < ours[metric] < 95


def voc_files(folder: Path, objects, found) -> tuple[str, str, str]:
    """The same in VOC's files, pixels counted from 1."""
    for image in range(1, 8):
        things = "".join(
            f"<object><name>person</name><pose/><truncated>0</truncated><difficult>{more['difficult']}</difficult><bndbox>"
            f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for number, _, (x, y, w, h), more in objects if number == image
        )  # fmt: skip
        (folder / f"{image}.xml").write_text(f"<annotation>{things}</annotation>".replace("<pose/>", "<pose>-</pose>"))
    lines = [f"{i} {score} {x + 1} {y + 1} {x + w} {y + h}" for i, _, (x, y, w, h), score in found]
    (folder / "person.txt").write_text("\n".join(lines))
    (folder / "images.txt").write_text("\n".join(map(str, range(1, 8))))
    return str(folder / "{}.txt"), str(folder / "{}.xml"), str(folder / "images.txt")


# ---- Objects365, LVIS ----


def test_objects365_reports_ap_ap50_ap75_and_those_of_base_and_novel(tmp_path):
    found = [(1, 1, [10, 10, 40, 32], 0.9)]  # IoU .80
    result = evaluate_file(*world(tmp_path, [(1, 1, BOX, {})], found), "objects365", novel=["person"])["bbox"]
    assert (result["AP"], result["AP50"], result["AP75"]) == pytest.approx((70, 100, 100))
    assert result["AP-novel"] == pytest.approx(70) and math.isnan(result["AP-base"])
    assert "APs" not in result


def test_a_file_without_the_fields_of_lvis_is_refused_with_the_way_out(tmp_path):
    files = world(tmp_path, [(1, 1, BOX, {})], [])
    with pytest.raises(ValueError, match='a.json: category 1 has no "frequency".*protocol "coco"'):
        evaluate_file(*files, "lvis")
    content = json.loads(Path(files[0]).read_text())
    content["categories"] = [{**row, "frequency": "often"} for row in content["categories"]]
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    content["images"] = [{**row, **lists} for row in content["images"]]
    with pytest.raises(ValueError, match='category 1 has the frequency "often"'):
        evaluate_file(write(tmp_path / "b.json", content), files[1], "lvis-fixed")


# ---- recall ----


def test_an_object_is_recalled_by_a_box_of_any_class(tmp_path):
    objects = [(1, 1, BOX, {}), (1, 3, ELSEWHERE, {}), (1, 2, [150, 10, 20, 20], {})]
    found = [(1, 2, ELSEWHERE, 0.9), (1, 3, [10, 10, 40, 32], 0.8)]  # taken for something else; the second has IoU .80
    result = evaluate_file(*world(tmp_path, objects, found), "coco", novel=["cat"])["bbox"]
    assert result["AP50"] == 0
    assert result["AR@100-novel"] == pytest.approx(100)
    assert result["AR@100-base"] == pytest.approx((70 + 0) / 2)
    assert result["AR@100"] == result["AR@300"] == pytest.approx((100 + 70 + 0) / 3)


def test_a_box_that_is_detected_as_many_things_takes_one_place_of_the_hundred(tmp_path):
    noise = [(1, 1 + i % 3, ELSEWHERE, 0.9) for i in range(150)]
    files = world(tmp_path, [(1, 1, BOX, {})], [*noise, (1, 2, BOX, 0.1)])
    assert evaluate_file(*files, "coco")["bbox"]["AR@100"] == pytest.approx(100)


@pytest.mark.parametrize(("better", "at_100", "at_300"), [(99, 100, 100), (100, 0, 100), (299, 0, 100), (300, 0, 0)])
def test_the_budget_of_recall_is_of_different_boxes(tmp_path, better, at_100, at_300):
    noise = [(1, 1, [100, 100, 40, 40 + i], 0.9) for i in range(better)]
    result = evaluate_file(*world(tmp_path, [(1, 1, BOX, {})], [*noise, (1, 2, BOX, 0.1)]), "coco")["bbox"]
    assert (result["AR@100"], result["AR@300"]) == pytest.approx((at_100, at_300))


def test_crowds_and_what_nobody_wants_found_are_not_recalled(tmp_path):
    result = evaluate_file(*world(tmp_path, [(1, 1, BOX, {"iscrowd": 1})], [(1, 1, BOX, 0.9)]), "coco")["bbox"]
    assert math.isnan(result["AR@100"]) and math.isnan(result["AP"])
