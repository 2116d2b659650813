"""Our numbers are those of `lvis` and `pycocotools` on whatever they are given; where not, who is right is said."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from lvis import LVISEval
from pycocotools import mask as masks
from pycocotools.cocoeval import COCOeval

from dk_detr.evaluation import score_file
from tests.evaluation.random_worlds import SIDE, Row, coco_says, lvis_says, random_world, write

AP_OF_LVIS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")
AP_OF_COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
EXACT = 1e-6  # points


def load(path: str) -> list:
    return json.loads(Path(path).read_text())


def assert_equal(ours: dict, theirs: dict, suffix: str = "") -> None:
    """-1 of theirs is nan of ours."""
    wanted = {name: 100 * value if value >= 0 else math.nan for name, value in theirs.items()}
    assert {name: ours[name + suffix] for name in wanted} == pytest.approx(wanted, abs=EXACT, nan_ok=True)


def assert_lvis(ours: dict, theirs: LVISEval, suffix: str = "") -> None:
    assert_equal(ours, {name: theirs.results[name] for name in AP_OF_LVIS}, suffix)


def assert_coco(ours: dict, theirs: COCOeval) -> None:
    assert_equal(ours, dict(zip(AP_OF_COCO, theirs.stats.tolist())))


@pytest.mark.parametrize("seed", range(12))
def test_lvis_numbers_are_those_of_lvis(tmp_path, seed):
    annotations, results = random_world(tmp_path, seed)
    assert_lvis(score_file(annotations, results, "lvis")["bbox"], lvis_says(annotations, load(results)))


def test_lvis_limit_of_an_image_is_that_of_lvis(tmp_path):
    annotations, results = random_world(tmp_path, 0, num_images=6, most=700)
    rows = load(results)
    assert max(np.unique([row["image_id"] for row in rows], return_counts=True)[1]) > 400
    assert_lvis(score_file(annotations, results, "lvis")["bbox"], lvis_says(annotations, rows))
    without = lvis_says(annotations, rows, max_detections=-1)
    assert without.results["AP"] != lvis_says(annotations, rows).results["AP"]  # so the limit matters here


@pytest.mark.parametrize("seed", range(3))
def test_fixed_ap_is_lvis_without_the_limit_of_an_image(tmp_path, seed, monkeypatch):
    monkeypatch.setattr("dk_detr.evaluation.protocols.FixedLVIS.best_of_category", 150)
    annotations, results = random_world(tmp_path, seed, num_images=6, most=700)
    rows, best = load(results), defaultdict(list)
    for row in sorted(rows, key=lambda row: -row["score"]):
        best[row["category_id"]].append(row)
    kept = [row for found in best.values() for row in found[:150]]
    assert len(kept) < len(rows)
    ours = score_file(annotations, results, "lvis-fixed")["bbox"]
    assert_lvis(ours, lvis_says(annotations, kept, max_detections=-1))
    assert_lvis(ours, lvis_says(annotations, rows), suffix="@300")  # the usual AP beside it


@pytest.mark.parametrize("crowds", [False, True])
@pytest.mark.parametrize("seed", range(8))
def test_coco_numbers_are_those_of_pycocotools(tmp_path, seed, crowds):
    annotations, results = random_world(tmp_path, seed, crowds=crowds)
    ours = score_file(annotations, results, "coco")["bbox"]
    assert_coco(ours, coco_says(annotations, load(results)))


def test_coco_limit_is_of_an_image_and_a_category_as_in_pycocotools(tmp_path):
    annotations, results = random_world(tmp_path, 1, num_images=4, most=3000)
    ours = score_file(annotations, results, "coco")["bbox"]
    rows = load(results)
    assert ours["AP"] == pytest.approx(100 * coco_says(annotations, rows).stats[0], abs=EXACT)
    assert coco_says(annotations, rows, limit=1000).stats[0] != coco_says(annotations, rows).stats[0]


@pytest.mark.parametrize("seed", range(4))
def test_base_and_novel_are_means_over_their_categories(tmp_path, seed):
    annotations, results = random_world(tmp_path, seed, crowds=True)
    theirs = coco_says(annotations, load(results))
    names = [row["name"] for row in sorted(load(annotations)["categories"], key=lambda row: row["id"])]
    novel = names[::2]
    ours = score_file(annotations, results, "ov-coco", novel=novel)["bbox"]
    for group, members in (("novel", novel), ("base", [name for name in names if name not in novel])):
        precision = theirs.eval["precision"][0, :, [names.index(name) for name in members], 0, -1]
        assert ours[f"AP50-{group}"] == pytest.approx(100 * precision[precision > -1].mean(), abs=EXACT)


@pytest.mark.parametrize("seed", range(6))
def test_class_agnostic_recall_is_that_of_pycocotools(tmp_path, seed):
    annotations, results = random_world(tmp_path, seed, crowds=True, most=200)
    different = {(row["image_id"], *row["bbox"]): row for row in reversed(load(results))}  # no box twice
    rows = list(different.values())
    ours = score_file(annotations, write(tmp_path / "different.json", rows), "coco")["bbox"]
    for budget in (100, 300):
        theirs = coco_says(annotations, rows, use_cats=0, limit=budget)
        assert ours[f"AR@{budget}"] == pytest.approx(100 * theirs.eval["recall"][:, 0, 0, -1].mean(), abs=EXACT)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("protocol", ["lvis", "coco"])
def test_masks_are_scored_as_lvis_and_pycocotools_score_them(tmp_path, seed, protocol):
    annotations, results = random_world(tmp_path, seed, crowds=protocol == "coco")
    encoded = [triangle(row) for row in load(results)]
    ours = score_file(annotations, write(tmp_path / "masks.json", encoded), protocol, iou_type="segm")["segm"]
    if protocol == "lvis":
        assert_lvis(ours, lvis_says(annotations, encoded, iou_type="segm"))
    else:
        assert_coco(ours, coco_says(annotations, encoded, "segm"))


def triangle(row: Row) -> Row:
    """The same result, with a mask instead of the box."""
    x, y, w, h = row["bbox"]
    encoded = masks.frPyObjects([[x, y, x + w, y, x + w / 2, y + h]], SIDE, SIDE)[0]
    found = {**row, "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()}}
    del found["bbox"]  # theirs would take areas from it
    return found


# ---- where they go wrong ----


def test_an_annotation_whose_id_is_0_can_be_found(tmp_path):
    image = {"id": 1, "height": SIDE, "width": SIDE, "neg_category_ids": [], "not_exhaustive_category_ids": []}
    thing = {"id": 0, "image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0}
    categories = [{"id": 1, "name": "thing", "frequency": "f"}]
    annotations = write(tmp_path / "a.json", {"images": [image], "annotations": [thing], "categories": categories})
    rows = [{"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}]
    results = write(tmp_path / "r.json", rows)
    for protocol in ("lvis", "coco"):
        assert score_file(annotations, results, protocol)["bbox"]["AP"] == pytest.approx(100)
    assert lvis_says(annotations, rows).results["AP"] == 0
    assert coco_says(annotations, rows).stats[0] == 0


def test_masks_have_their_own_area_also_where_a_box_is_given(tmp_path):
    annotations, results = random_world(tmp_path, 3)
    rows = load(results)
    alone = [triangle(row) for row in rows]
    both = [{**row, "bbox": box["bbox"]} for row, box in zip(alone, rows)]
    ours = [
        score_file(annotations, write(tmp_path / name, found), "lvis", iou_type="segm")["segm"]
        for name, found in (("alone.json", alone), ("both.json", both))
    ]
    assert ours[0] == pytest.approx(ours[1], nan_ok=True)
    theirs = [lvis_says(annotations, found, iou_type="segm").results["APs"] for found in (alone, both)]
    assert theirs[0] != theirs[1]
