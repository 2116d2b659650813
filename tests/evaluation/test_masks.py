"""Masks: counted by hand, from memory and from files, in whatever form a detector gives them; torn ones are refused."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from pycocotools import mask as masks

from dk_detr.annotations.encodings import collect, torn
from dk_detr.evaluation import OpenVocabularyEvaluator, evaluate_file, results_file
from tests.evaluation.random_worlds import lvis_says, random_world, triangle, with_masks, write

SIZE = (60, 80)  # height, width
NAMES = ("apple", "cat")


def rectangle(x: int, y: int, w: int, h: int) -> torch.Tensor:
    """A bitmap."""
    bitmap = torch.zeros(SIZE, dtype=torch.bool)
    bitmap[y : y + h, x : x + w] = True
    return bitmap


def polygon(x: int, y: int, w: int, h: int) -> list[float]:
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def annotation_file(folder: Path, objects, num_images: int = 1) -> str:
    """A COCO file with objects as (image, category, polygons); a box of 20×20 at (10, 10) is the box of all."""
    annotations = [
        {"id": i, "image_id": image, "category_id": k, "bbox": [10, 10, 20, 20], "area": 400, "segmentation": polygons}
        for i, (image, k, polygons) in enumerate(objects, start=1)
    ]
    images = [{"id": i, "height": SIZE[0], "width": SIZE[1]} for i in range(1, num_images + 1)]
    categories = [{"id": k, "name": name} for k, name in enumerate(NAMES, start=1)]
    return write(folder / "a.json", {"images": images, "annotations": annotations, "categories": categories})


def instances(labels, pred_masks: Any) -> Instances:
    """Detections with the box of all objects, the first with the best score."""
    count = len(labels)
    found = Instances(SIZE, pred_boxes=Boxes(torch.tensor([[10.0, 10, 30, 30]]).repeat(count, 1)))
    found.scores, found.pred_classes = torch.linspace(0.9, 0.5, count), torch.tensor(labels, dtype=torch.long)
    if pred_masks is not None:
        found.pred_masks = pred_masks
    return found


def evaluate(path: str, *images: Instances, kind: str = "coco", **options: Any) -> dict[str, dict[str, float]]:
    evaluator = OpenVocabularyEvaluator(kind, path, NAMES, novel=("cat",), **options)
    for number, found in enumerate(images, start=1):
        evaluator.process([{"image_id": number}], [{"instances": found}])
    return evaluator.evaluate()


SQUARE = (10, 10, 20, 20)


def test_hand_counted_masks_beside_the_same_boxes(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)]), (1, 2, [polygon(*SQUARE)])])
    found = instances([0, 1], torch.stack([rectangle(*SQUARE), rectangle(10, 10, 20, 13)]))  # the cat's has IoU .65
    result = evaluate(path, found)
    assert list(result) == ["bbox", "segm"]
    assert (result["bbox"]["AP"], result["bbox"]["AP-novel"]) == pytest.approx((100, 100))
    assert result["segm"]["AP50"] == pytest.approx(100)
    assert (result["segm"]["AP-base"], result["segm"]["AP-novel"]) == pytest.approx((100, 40))  # at .50 to .65
    assert result["segm"]["AR@100-novel"] == pytest.approx(100)  # class-agnostic: the apple's mask finds the cat, too


def test_masks_of_many_polygons_and_of_none_are_scored(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, [polygon(10, 10, 5, 20), polygon(25, 10, 5, 20)])])
    two = rectangle(10, 10, 5, 20) | rectangle(25, 10, 5, 20)
    assert evaluate(path, instances([0], two[None]))["segm"]["AP"] == pytest.approx(100)
    nothing = evaluate(path, instances([0, 0], torch.stack([torch.zeros(SIZE, dtype=torch.bool), two])))
    assert nothing["segm"]["AP"] == pytest.approx(50)  # an empty mask with a better score is a mistake


@pytest.mark.parametrize("form", ["bitmaps", "BitMasks", "encoded", "encoded text", "runs"])
def test_bitmaps_and_encodings_say_the_same(tmp_path, form):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)])])
    bitmap = rectangle(10, 10, 20, 16)  # IoU .80
    encoded = masks.encode(np.asfortranarray(bitmap.numpy().astype(np.uint8)))
    given = {
        "bitmaps": bitmap[None],
        "BitMasks": BitMasks(bitmap[None]),
        "encoded": [encoded],
        "encoded text": [{**encoded, "counts": encoded["counts"].decode()}],
        "runs": [{"size": list(SIZE), "counts": [10 * 60 + 10, *([16, 44] * 19), 16, 60 * 50 + 34]}],
    }
    assert evaluate(path, instances([0], given[form]))["segm"]["AP"] == pytest.approx(70)


def test_masks_are_written_and_score_from_the_file_as_from_memory(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)]), (2, 2, [polygon(*SQUARE)])], num_images=3)
    guess = instances([0, 1], torch.stack([rectangle(10, 10, 20, 17), rectangle(30, 30, 9, 9)]))
    images = guess, instances([1], rectangle(10, 10, 20, 15)[None]), instances([], None)
    result = evaluate(path, *images, output_dir=str(tmp_path / "out"))
    written = tmp_path / "out" / results_file("coco")
    assert {"bbox", "segmentation"} < json.loads(written.read_text())[0].keys()
    for iou_type, metrics in result.items():
        options = {"iou_type": iou_type, "output_dir": str(tmp_path / "again")}
        again = evaluate_file(path, str(written), "coco", ("cat",), **options)
        assert again[iou_type] == pytest.approx(metrics, nan_ok=True)
    assert 0 < result["segm"]["AP"] < result["bbox"]["AP"]
    points = {}
    for name in ("coco_categories.csv", "coco_categories_masks.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "again" / name).read_text()
        with open(tmp_path / "out" / name) as file:
            points[name] = [row["AP"] for row in csv.DictReader(file)]
    assert points == {"coco_categories.csv": ["100.000"] * 2, "coco_categories_masks.csv": ["80.000", "60.000"]}


@pytest.mark.filterwarnings("ignore:__array__")  # of pycocotools' decoder
def test_masks_from_memory_have_the_numbers_of_lvis(tmp_path):
    annotations, results = random_world(tmp_path, 7)
    truth, rows = json.loads(Path(annotations).read_text()), json.loads(Path(results).read_text())
    ids = {row["id"]: row["name"] for row in truth["categories"]}
    evaluator = OpenVocabularyEvaluator("lvis", annotations, list(ids.values()))
    for image in truth["images"]:
        found = [row for row in rows if row["image_id"] == image["id"]]
        boxes = torch.tensor([row["bbox"] for row in found]).reshape(-1, 4)
        one = Instances((200, 200), pred_boxes=Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)))
        one.scores = torch.tensor([row["score"] for row in found])
        one.pred_classes = torch.tensor([list(ids).index(row["category_id"]) for row in found], dtype=torch.long)
        bitmaps = [masks.decode([triangle(row["bbox"])])[..., 0] > 0 for row in found]
        one.pred_masks = torch.from_numpy(np.stack(bitmaps)) if found else torch.zeros(0, 200, 200, dtype=torch.bool)
        evaluator.process([{"image_id": image["id"]}], [{"instances": one}])
    theirs = lvis_says(annotations, with_masks(rows), iou_type="segm").results
    ours = evaluator.evaluate()["segm"]
    for name in ("AP", "AP50", "APs", "APm", "APl", "APr", "APc", "APf"):
        assert ours[name] == pytest.approx(100 * theirs[name], abs=1e-6), name


def test_a_mask_that_is_detected_as_many_things_takes_one_place_of_the_hundred(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)])])
    noise, right = rectangle(50, 30, 9, 9), rectangle(*SQUARE)
    found = instances([i % 2 for i in range(151)], torch.stack([*[noise] * 150, right]))
    assert evaluate(path, found)["segm"]["AR@100"] == pytest.approx(100)


def test_without_masks_of_objects_only_boxes_are_scored_and_that_is_said(tmp_path, caplog):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)]), (1, 2, [])])
    with caplog.at_level(logging.WARNING):
        result = evaluate(path, instances([0], rectangle(*SQUARE)[None]))
    assert list(result) == ["bbox"] and "lacks masks of objects: only boxes are evaluated" in caplog.text
    assert list(evaluate(path, instances([0], None))) == ["bbox"]


def test_a_file_without_objects_has_nothing_to_find(tmp_path):
    result = evaluate(annotation_file(tmp_path, []), instances([0], rectangle(*SQUARE)[None]))
    assert all(math.isnan(points) for points in result["segm"].values())


def test_an_image_without_detections_needs_no_masks_but_one_with_detections_does(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)])], num_images=2)
    masked = instances([0], rectangle(*SQUARE)[None])
    assert evaluate(path, masked, instances([], None))["segm"]["AP"] == pytest.approx(100)
    with pytest.raises(ValueError, match="Image 2 has detections without pred_masks"):
        evaluate(path, masked, instances([0], None))


@pytest.mark.parametrize(
    ("pred_masks", "message"),
    [
        (torch.zeros(1, 30, 40, dtype=torch.bool), r"a mask of \[30, 40\] \(height, width\) in an image of \[60, 80\]"),
        (torch.zeros(1, *SIZE), "pred_masks of float32 .*; wanted bool"),
        (torch.zeros(1, 1, *SIZE, dtype=torch.bool), r"pred_masks of bool \(1, 1, 60, 80\); wanted bool"),
        ([{"size": SIZE, "counts": b"34"}], "a mask whose runs do not fill the image"),
    ],
)
def test_masks_that_cannot_be_scored_are_refused_at_once(tmp_path, pred_masks, message):
    with pytest.raises(ValueError, match=f"Image 1 has {message}"):
        evaluate(annotation_file(tmp_path, [(1, 1, [polygon(*SQUARE)])]), instances([0], pred_masks))


def test_a_broken_polygon_of_the_annotation_file_is_found_with_the_first_mask(tmp_path):
    evaluator = OpenVocabularyEvaluator("coco", annotation_file(tmp_path, [(1, 1, [[1, 2, 3, 4]])]), NAMES)
    with pytest.raises(ValueError, match=r"a.json: annotation 1 has a polygon of 4 numbers"):
        evaluator.process([{"image_id": 1}], [{"instances": instances([0], rectangle(*SQUARE)[None])}])


# ---- encodings ----


def some_masks() -> list[dict[str, Any]]:
    """Empty, full, noisy, with few and with long runs."""
    dice, found = np.random.default_rng(0), []
    for number in range(40):
        height, width = dice.integers(1, 60, 2)
        share = (0, 1, 0.5, 0.02)[number % 4]
        found.append(masks.encode(np.asfortranarray(dice.random((height, width)) < share).astype(np.uint8)))
    large = np.zeros((2000, 3000), np.uint8, order="F")
    large[500:1500, 700:2500] = 1
    return [*found, masks.encode(large)]


def test_no_whole_encoding_passes_for_torn():
    assert not torn(collect(some_masks() * 10)).any()


@pytest.mark.parametrize("keep", [1, 2, -1])
def test_an_encoding_that_is_cut_or_of_another_size_is_torn(keep):
    first, *others = some_masks()
    for mask in others:
        if len(mask["counts"]) > 2:
            cut = {**mask, "counts": mask["counts"][:keep]}
            assert torn(collect([first, cut, first])).tolist() == [False, True, False]
        height, width = mask["size"]
        assert torn(collect([{**mask, "size": [height + 1, width]}])).all()


@pytest.mark.parametrize("counts", [b"", b"abc", b"zz~~", b"0\xc3\xa9", b"34"])
def test_what_is_no_encoding_is_torn(counts):
    assert torn(collect([{"size": [8, 9], "counts": counts}])).all()
