"""Our numbers are those of `lvis` and `pycocotools` on whatever they are given; where not, who is right is said."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lvis import LVISEval
from pycocotools.cocoeval import COCOeval

from dk_detr.evaluation import evaluate_file
from tests.evaluation.random_worlds import SIDE, Row, coco_says, lvis_says, random_world, triangle, with_masks, write

AP_OF_LVIS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
AP_OF_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
EXACT = 1e-6  # points


def load(path: str) -> Any:
    return json.loads(Path(path).read_text())


def assert_equal(ours: dict, theirs: dict, suffix: str = "") -> None:
    """-1 of theirs is nan of ours."""
    wanted = {name: 100 * value if value >= 0 else math.nan for name, value in theirs.items()}
    assert {name: ours[name + suffix] for name in wanted} == pytest.approx(wanted, abs=EXACT, nan_ok=True)


def assert_lvis(ours: dict, theirs: LVISEval, suffix: str = "") -> None:
    assert_equal(ours, {name: theirs.results[name] for name in AP_OF_LVIS}, suffix)


def assert_coco(ours: dict, theirs: COCOeval) -> None:
    assert_equal(ours, dict(zip(AP_OF_COCO, theirs.stats.tolist())))


def score(files: tuple[str, str], protocol: str, iou_type: str = "bbox", **options: Any) -> dict:
    """Ours, from boxes or from triangles in them."""
    annotations, results = files
    if iou_type == "segm":
        results = write(Path(results).with_name("masks.json"), with_masks(load(results)))
    return evaluate_file(annotations, results, protocol, iou_type=iou_type, **options)[iou_type]


def rows_of(files: tuple[str, str], iou_type: str) -> list[Row]:
    """For theirs."""
    return with_masks(load(files[1])) if iou_type == "segm" else load(files[1])


def lvis_of(files: tuple[str, str], iou_type: str = "bbox", limit: int = 300) -> LVISEval:
    return lvis_says(files[0], rows_of(files, iou_type), limit, iou_type)


def coco_of(files: tuple[str, str], iou_type: str = "bbox", **options: Any) -> COCOeval:
    return coco_says(files[0], rows_of(files, iou_type), iou_type, **options)


BOTH = pytest.mark.parametrize("iou_type", ["bbox", "segm"])


@BOTH
@pytest.mark.parametrize("seed", range(12))
def test_lvis_numbers_are_those_of_lvis(tmp_path, seed, iou_type):
    files = random_world(tmp_path, seed, crowds=seed % 2 == 1)
    assert_lvis(score(files, "lvis", iou_type), lvis_of(files, iou_type))


@BOTH
def test_lvis_limit_of_an_image_is_that_of_lvis(tmp_path, iou_type):
    files = random_world(tmp_path, 0, num_images=6, most=700)
    assert max(np.unique([row["image_id"] for row in load(files[1])], return_counts=True)[1]) > 400
    assert_lvis(score(files, "lvis", iou_type), theirs := lvis_of(files, iou_type))
    assert lvis_of(files, iou_type, limit=-1).results["AP"] != theirs.results["AP"]  # so the limit matters here


@BOTH
@pytest.mark.parametrize("seed", range(3))
def test_fixed_ap_is_lvis_without_the_limit_of_an_image(tmp_path, seed, iou_type, monkeypatch):
    monkeypatch.setattr("dk_detr.evaluation.protocols.FixedLVIS.best_of_category", 150)
    files = random_world(tmp_path, seed, num_images=6, most=700)
    rows, best = rows_of(files, iou_type), defaultdict(list)
    for row in sorted(rows, key=lambda row: -row["score"]):
        best[row["category_id"]].append(row)
    kept = [row for found in best.values() for row in found[:150]]
    assert len(kept) < len(rows)
    ours = score(files, "lvis-fixed", iou_type)
    assert_lvis(ours, lvis_says(files[0], kept, -1, iou_type))
    assert_lvis(ours, lvis_of(files, iou_type), suffix="@300")  # the usual AP beside it


@BOTH
@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_coco_numbers_are_those_of_pycocotools(tmp_path, seed, crowds, iou_type):
    files = random_world(tmp_path, seed, crowds=crowds)
    assert_coco(score(files, "coco", iou_type), coco_of(files, iou_type))


@BOTH
def test_coco_limit_is_of_an_image_and_a_category_as_in_pycocotools(tmp_path, iou_type):
    annotations, results = random_world(tmp_path, 1, most=200)
    places = {(row["image_id"], row["category_id"]) for row in load(results)}
    false = [{"image_id": i, "category_id": k, "bbox": [150.0, 150.0, 9.0, 9.0], "score": 0.5} for i, k in places]
    files = annotations, write(tmp_path / "many.json", [*load(results), *(85 * false)])
    assert_coco(score(files, "coco", iou_type), theirs := coco_of(files, iou_type))
    assert coco_of(files, iou_type, limit=1000).stats[1] > theirs.stats[1]


@BOTH
@pytest.mark.parametrize("protocol", ["lvis", "coco"])
def test_numbers_are_equal_where_all_scores_are(tmp_path, protocol, iou_type):
    annotations, results = random_world(tmp_path, 5, crowds=True, most=150)
    files = annotations, write(tmp_path / "tied.json", [{**row, "score": 0.5} for row in load(results)])
    ours = score(files, protocol, iou_type)
    if protocol == "lvis":
        assert_lvis(ours, lvis_of(files, iou_type))
    else:
        assert_coco(ours, coco_of(files, iou_type))


@BOTH
def test_without_any_object_there_is_no_number_in_theirs_and_ours(tmp_path, iou_type):
    annotations, results = random_world(tmp_path, 2)
    files = write(tmp_path / "empty.json", {**load(annotations), "annotations": []}), results
    assert set(lvis_of(files, iou_type).results.values()) == {-1}
    assert all(math.isnan(points) for points in score(files, "lvis", iou_type).values())
    assert_lvis(score(files, "lvis", iou_type), lvis_of(files, iou_type))
    assert_coco(score(files, "coco", iou_type), coco_of(files, iou_type))


@pytest.mark.parametrize("protocol", ["lvis", "coco"])
def test_without_any_detection_every_number_is_0_or_there_is_nothing_to_find(tmp_path, protocol):
    """Theirs fail on an empty list: they get one detection in an image that has no such object."""
    annotations, _ = random_world(tmp_path, 2)
    content = load(annotations)
    lost = {"image_id": content["images"][0]["id"], "category_id": content["categories"][-1]["id"], "score": 0.5}
    theirs = (lvis_says if protocol == "lvis" else coco_says)(annotations, [{**lost, "bbox": [0.0, 0.0, 9.0, 9.0]}])
    ours = evaluate_file(annotations, write(tmp_path / "none.json", []), protocol)["bbox"]
    (assert_lvis if protocol == "lvis" else assert_coco)(ours, theirs)
    assert ours["AP"] == ours["AR@300"] == 0


@pytest.mark.parametrize("seed", range(4))
def test_base_and_novel_are_means_over_their_categories(tmp_path, seed):
    annotations, results = random_world(tmp_path, seed, crowds=True)
    theirs = coco_says(annotations, load(results))
    names = [row["name"] for row in sorted(load(annotations)["categories"], key=lambda row: row["id"])]
    novel = names[::2]
    ours = evaluate_file(annotations, results, "ov-coco", novel=novel)["bbox"]
    for group, members in (("novel", novel), ("base", [name for name in names if name not in novel])):
        precision = theirs.eval["precision"][0, :, [names.index(name) for name in members], 0, -1]
        assert ours[f"AP50-{group}"] == pytest.approx(100 * precision[precision > -1].mean(), abs=EXACT)


@BOTH
@pytest.mark.parametrize("protocol", ["lvis", "coco"])
def test_each_row_of_the_table_is_their_ap_of_that_category(tmp_path, protocol, iou_type):
    files = random_world(tmp_path, 4)
    score(files, protocol, iou_type, output_dir=str(tmp_path))
    if protocol == "lvis":
        precision = lvis_of(files, iou_type).eval["precision"][:, :, :, 0]
    else:
        precision = coco_of(files, iou_type).eval["precision"][:, :, :, 0, -1]
    theirs = np.where(precision.max(axis=(0, 1)) < 0, math.nan, 100 * precision.mean(axis=(0, 1)))
    of_masks = "_masks" if iou_type == "segm" else ""
    with open(tmp_path / f"{protocol}_categories{of_masks}.csv") as file:
        ours = [float(row["AP"]) for row in csv.DictReader(file)]
    assert ours == pytest.approx(theirs.tolist(), abs=5.1e-4, nan_ok=True) and 0 < np.nanmax(theirs) < 100


@BOTH
@pytest.mark.parametrize(("seed", "most"), [(0, 200), (1, 200), (2, 900), (3, 200), (4, 200), (5, 900)])
def test_class_agnostic_recall_is_that_of_pycocotools(tmp_path, seed, most, iou_type):
    annotations, results = random_world(tmp_path, seed, num_images=8, crowds=True, most=most)
    different = {(row["image_id"], str(triangle(row["bbox"]))): row for row in reversed(load(results))}
    files = annotations, write(tmp_path / "different.json", list(different.values()))
    ours = score(files, "coco", iou_type)
    for budget in (100, 300):
        theirs = coco_of(files, iou_type, use_cats=0, limit=budget)
        assert ours[f"AR@{budget}"] == pytest.approx(100 * theirs.eval["recall"][:, 0, 0, -1].mean(), abs=EXACT)


# ---- where they go wrong ----


def test_an_annotation_whose_id_is_0_can_be_found(tmp_path):
    image = {"id": 1, "height": SIDE, "width": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    thing = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    categories = [{"id": 1, "name": "thing", "frequency": "f"}]
    annotations = write(tmp_path / "a.json", {"images": [image], "annotations": [thing], "categories": categories})
    rows = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}]
    results = write(tmp_path / "r.json", rows)
    for protocol in ("lvis", "coco"):
        assert evaluate_file(annotations, results, protocol)["bbox"]["AP"] == pytest.approx(100)
    assert lvis_says(annotations, rows).results["AP"] == 0
    assert coco_says(annotations, rows).stats[0] == 0


def test_objects_that_share_an_id_are_two(tmp_path):
    image = {"id": 1, "height": SIDE, "width": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    boxes = [10.0, 10.0, 40.0, 40.0], [100.0, 100.0, 40.0, 40.0]
    things = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 1600, "iscrowd": 0} for box in boxes]
    categories = [{"id": 1, "name": "thing", "frequency": "f"}]
    annotations = write(tmp_path / "a.json", {"images": [image], "annotations": things, "categories": categories})
    rows = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9} for box in boxes]
    for protocol in ("lvis", "coco"):
        result = evaluate_file(annotations, write(tmp_path / "r.json", rows), protocol)
        assert result["bbox"]["AP"] == pytest.approx(100)
    assert lvis_says(annotations, rows).results["AP"] < 0.6  # the second is there twice, the first not at all
    assert coco_says(annotations, rows).stats[0] < 0.6


def test_masks_have_their_own_area_also_where_a_box_is_given(tmp_path):
    annotations, results = random_world(tmp_path, 3)
    rows = load(results)
    alone = with_masks(rows)
    both = [{**row, "bbox": box["bbox"]} for row, box in zip(alone, rows)]
    ours = [
        evaluate_file(annotations, write(tmp_path / name, found), "lvis", iou_type="segm")["segm"]
        for name, found in (("alone.json", alone), ("both.json", both))
    ]
    assert ours[0] == pytest.approx(ours[1], nan_ok=True)
    theirs = [lvis_says(annotations, found, iou_type="segm").results["APs"] for found in (alone, both)]
    assert theirs[0] != theirs[1]
