"""The LVIS evaluator: hand-counted numbers, the `lvis` package's own numbers, and clear refusals."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from lvis import LVIS, LVISEval, LVISResults
from torch import distributed
from torch.multiprocessing import start_processes

from dk_detr.evaluation import OpenVocabularyEvaluator

NAMES = ["apple", "boat", "cat"]
BOX = (10.0, 10.0, 50.0, 50.0)  # xyxy; area 1600: medium
ELSEWHERE = (100.0, 100.0, 140.0, 140.0)


def annotation_file(folder: Path, objects, num_images=1, frequency="fcr", negative=(1, 2, 3), not_exhaustive=()) -> str:
    """An LVIS v1 file with the categories NAMES (ids 1, 2, 3) and `objects` as (image id, category id, box xyxy)."""
    present = {(image, category) for image, category, _ in objects}
    images = [
        {
            "id": image,
            "height": 200,
            "width": 200,
            "neg_category_ids": [c for c in negative if (image, c) not in present],
            "not_exhaustive_category_ids": list(not_exhaustive),
        }
        for image in range(1, num_images + 1)
    ]
    annotations = [
        {"id": i, "image_id": image, "category_id": category, "bbox": [x0, y0, x1 - x0, y1 - y0],
         "area": (x1 - x0) * (y1 - y0), "segmentation": [[x0, y0, x1, y0, x1, y1]]}
        for i, (image, category, (x0, y0, x1, y1)) in enumerate(objects, start=1)
    ]
    categories = [{"id": i, "name": n, "frequency": f} for i, (n, f) in enumerate(zip(NAMES, frequency), start=1)]
    path = folder / "annotations.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def instances(detections) -> Instances:
    """Detections as (class index, box xyxy, score)."""
    result = Instances((200, 200))
    result.pred_classes = torch.tensor([c for c, _, _ in detections], dtype=torch.int64)
    result.pred_boxes = Boxes(torch.tensor([b for _, b, _ in detections], dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor([s for _, _, s in detections], dtype=torch.float32)
    return result


def evaluate(path: str, detections, names=NAMES, **options) -> dict[str, float]:
    """Score {image id: detections}."""
    evaluator = OpenVocabularyEvaluator("lvis", path, names, **options)
    for image_id, found in detections.items():
        evaluator.process([{"image_id": image_id}], [{"instances": instances(found)}])
    return evaluator.evaluate()["bbox"]


def test_hand_counted_lvis_gives_hand_counted_ap(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX), (2, 1, BOX), (1, 2, BOX)], num_images=2)
    shifted = (10.0, 10.0, 50.0, 42.0)  # IoU with BOX 32 / 40 = .80: counts at the thresholds .50 to .80, 7 of 10
    found = {1: [(0, BOX, 0.9), (0, ELSEWHERE, 0.8), (1, shifted, 0.9)], 2: [(0, BOX, 0.7)]}
    result = evaluate(path, found)
    # apple: hit, false alarm, hit. Precision 1 up to recall 1/2 (51 of the 101 recall points), then 2/3 (50 points).
    apple = (51 + 50 * 2 / 3) / 101
    # boat: one object, one hit of IoU .80: perfect at 7 thresholds, nothing at 3. cat has no object and is left out.
    assert result["AP"] == pytest.approx(100 * (apple + 0.7) / 2)
    assert result["AP50"] == pytest.approx(100 * (apple + 1) / 2)
    assert result["AP75"] == pytest.approx(100 * (apple + 1) / 2)
    assert result["APf"] == pytest.approx(100 * apple)
    assert result["APc"] == pytest.approx(70)
    assert result["APm"] == pytest.approx(result["AP"])  # every box is medium


def test_groups_without_ground_truth_are_nan_and_never_minus_100(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX)])
    result = evaluate(path, {1: [(0, BOX, 0.9)]}, novel={"cat"}, groups={"boats": ["boat"], "nobody": []})
    without = {"APs", "APl", "APr", "APc", "AP-novel", "AP50-novel", "AP50-boats", "AP50-nobody"}
    assert {name for name, points in result.items() if math.isnan(points)} >= without
    assert min(points for points in result.values() if not math.isnan(points)) >= 0
    assert result["AP50-base"] == pytest.approx(100)


def test_novel_is_what_the_names_say_not_what_the_frequency_says(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX), (1, 3, ELSEWHERE)])  # apple is frequent, cat is rare
    result = evaluate(path, {1: [(0, BOX, 0.9)]}, novel={"apple"})
    assert result["AP-novel"] == pytest.approx(100)  # apple: found
    assert result["AP50-novel"] == pytest.approx(100)
    assert result["AP-base"] == result["APr"] == 0  # cat: missed


def test_extra_groups_are_scored_by_their_names(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX), (1, 2, BOX), (1, 3, BOX)])
    found = {1: [(0, BOX, 0.9), (2, BOX, 0.9)]}
    result = evaluate(path, found, groups={"found": ["apple", "cat"], "half": ["boat", "cat"]})
    assert result["AP50-found"] == pytest.approx(100)
    assert result["AP50-half"] == pytest.approx(50)


def test_a_category_that_is_neither_present_nor_negative_costs_nothing(tmp_path):
    false_alarm = {1: [(0, BOX, 0.5), (0, ELSEWHERE, 0.9)], 2: [(0, BOX, 0.9)]}
    unknown = annotation_file(tmp_path, [(1, 1, BOX)], num_images=2, negative=())
    # Image 2 says nothing about apples; image 1 has an apple, so its false alarm above the hit halves the precision.
    assert evaluate(unknown, false_alarm)["AP50"] == pytest.approx(50)
    verified_absent = annotation_file(tmp_path, [(1, 1, BOX)], num_images=2, negative=(1,))
    assert evaluate(verified_absent, false_alarm)["AP50"] == pytest.approx(100 / 3)


def test_unmatched_detections_of_a_not_exhaustive_category_cost_nothing(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX)], not_exhaustive=(1,))
    assert evaluate(path, {1: [(0, BOX, 0.5), (0, ELSEWHERE, 0.9)]})["AP"] == pytest.approx(100)


def test_only_the_best_detections_of_an_image_count(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX)])
    found = {1: [(0, BOX, 0.5), (1, BOX, 0.8), (2, BOX, 0.9)]}
    assert evaluate(path, found, max_detections=3)["AP"] == pytest.approx(100)
    assert evaluate(path, found, max_detections=2)["AP"] == 0


def random_world(folder: Path, num_images=12) -> tuple[str, dict[int, list]]:
    """Objects of all sizes, and detections that are jittered objects or noise."""
    random = np.random.default_rng(0)
    objects, found = [], {image: [] for image in range(1, num_images + 1)}
    for image, detections in found.items():
        for _ in range(5):
            corner, size = random.uniform(0, 100, 2), random.uniform(10, 120, 2)
            box, category = np.concatenate([corner, corner + size]), int(random.integers(3))
            objects.append((image, category + 1, tuple(box)))
            guess = category if random.random() < 0.8 else int(random.integers(3))
            detections.append((guess, tuple(box + random.normal(0, 3, 4)), random.random()))
        detections.append((int(random.integers(3)), (5.0, 5.0, 60.0, 60.0), random.random()))
    return annotation_file(folder, objects, num_images, negative=(1, 3), not_exhaustive=(2,)), found


def test_the_numbers_are_those_of_the_lvis_package(tmp_path):
    path, found = random_world(tmp_path)
    ours = evaluate(path, found, output_dir=str(tmp_path / "out"))
    ground_truth = LVIS(path)
    theirs = LVISEval(ground_truth, LVISResults(ground_truth, str(tmp_path / "out" / "lvis_results.json")), "bbox")
    theirs.run()
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"):
        assert ours[name] == pytest.approx(100 * theirs.results[name], abs=1e-9), name
    assert 0 < ours["APs"] < 100 and 0 < ours["APl"] < 100


def test_permuting_the_names_changes_nothing(tmp_path):
    path, found = random_world(tmp_path)
    order = [2, 0, 1]  # class i is called order[i]
    permuted = {image: [(order.index(c), box, score) for c, box, score in rows] for image, rows in found.items()}
    shuffled_names = [NAMES[i] for i in order]
    assert evaluate(path, permuted, names=shuffled_names, novel={"cat"}) == evaluate(path, found, novel={"cat"})


def test_no_detections_at_all_score_zero(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX)])
    result = evaluate(path, {1: []}, output_dir=str(tmp_path))
    assert result["AP"] == result["APf"] == result["AP50-base"] == 0
    assert math.isnan(result["APr"])
    assert json.loads((tmp_path / "lvis_results.json").read_text()) == []


def test_images_never_predicted_count_as_missed_and_are_counted_in_a_warning(tmp_path, caplog):
    path = annotation_file(tmp_path, [(1, 1, BOX), (2, 1, BOX)], num_images=3)
    with caplog.at_level(logging.WARNING):
        result = evaluate(path, {1: [(0, BOX, 0.9)]})
    assert result["AP"] == pytest.approx(100 * 51 / 101)  # recall 1/2 at precision 1
    assert "2 of 3 images" in caplog.text


def test_an_image_predicted_twice_counts_once(tmp_path):
    evaluator = OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, [(1, 1, BOX)]), NAMES)
    for box in (BOX, ELSEWHERE):
        evaluator.process([{"image_id": 1}], [{"instances": instances([(0, box, 0.9)])}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)


def evaluate_one_image_per_process(rank: int, path: str, folder: str) -> None:
    """Runs in its own process: this rank has seen the image of its number only."""
    torch.set_num_threads(1)  # a forked process must not enter the thread pool of its parent
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    evaluator = OpenVocabularyEvaluator("lvis", path, NAMES)
    evaluator.process([{"image_id": rank + 1}], [{"instances": instances([(0, BOX, 0.9)])}])
    result = evaluator.evaluate()
    Path(folder, f"rank_{rank}.json").write_text(json.dumps(result))
    distributed.destroy_process_group()


def test_two_processes_score_as_one_and_the_main_one_answers(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX), (2, 1, BOX)], num_images=2)
    # Forked, not spawned: importing everything twice would take 20 seconds.
    start_processes(evaluate_one_image_per_process, (path, str(tmp_path)), nprocs=2, start_method="fork")
    answers = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert answers[0]["bbox"]["AP"] == pytest.approx(100)
    assert answers[1] is None


def test_reset_forgets_the_predictions(tmp_path):
    evaluator = OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, [(1, 1, BOX)]), NAMES)
    evaluator.process([{"image_id": 1}], [{"instances": instances([(0, BOX, 0.9)])}])
    assert evaluator.evaluate()["bbox"]["AP"] == evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
    evaluator.reset()
    assert evaluator.evaluate()["bbox"]["AP"] == 0


def test_the_category_table_has_a_row_per_category(tmp_path):
    path = annotation_file(tmp_path, [(1, 1, BOX), (1, 1, ELSEWHERE), (1, 2, BOX)])
    evaluate(path, {1: [(0, BOX, 0.9)]}, novel={"boat"}, output_dir=str(tmp_path / "out"))
    rows = list(csv.DictReader((tmp_path / "out" / "lvis_categories.csv").open()))
    assert [(r["name"], r["frequency"], r["novel"], r["ground_truth"], r["AP50"]) for r in rows] == [
        ("apple", "f", "0", "2", "50.495"),
        ("boat", "c", "1", "1", "0.000"),
        ("cat", "r", "0", "0", "nan"),
    ]
    assert not list((tmp_path / "out").glob(".*"))  # no unfinished files are left


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["apple", "boot", "cat"], '"boot"'),
        (["apple", "boat"], '"cat"'),
        (["apple", "boat", "cat", "dog"], '"dog"'),
        (["apple", "boat", "cat", "cat"], '"cat" occurs more than once'),
    ],
)
def test_names_that_do_not_match_the_annotation_file_are_refused_by_name(tmp_path, names, message):
    with pytest.raises(ValueError, match=message):
        OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, []), names)


def test_unknown_names_in_a_group_are_refused_by_name(tmp_path):
    path = annotation_file(tmp_path, [])
    with pytest.raises(ValueError, match='Group "novel".*"dog"'):
        OpenVocabularyEvaluator("lvis", path, NAMES, novel={"dog"})
    with pytest.raises(ValueError, match='Group "animals".*"dog"'):
        OpenVocabularyEvaluator("lvis", path, NAMES, groups={"animals": ["cat", "dog"]})


@pytest.mark.parametrize(
    ("image_id", "detection", "message"),
    [
        (7, (0, BOX, 0.9), "no such image id"),
        (1, (3, BOX, 0.9), "pred_classes has 3, but there are 3 names"),
        (1, (-1, BOX, 0.9), "pred_classes has -1, but there are 3 names"),
        (1, (0, BOX, float("nan")), "not finite"),
        (1, (0, (0.0, 0.0, float("inf"), 1.0), 0.9), "not finite"),
    ],
)
def test_predictions_that_cannot_be_scored_are_refused_at_once(tmp_path, image_id, detection, message):
    evaluator = OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, [(1, 1, BOX)]), NAMES)
    with pytest.raises(ValueError, match=f"Image {image_id}.*{message}"):
        evaluator.process([{"image_id": image_id}], [{"instances": instances([detection])}])


def test_proposals_that_cannot_be_scored_are_refused_too(tmp_path):
    evaluator = OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, [(1, 1, BOX)]), NAMES)
    boxes = Boxes(torch.tensor([[0.0, 0.0, float("nan"), 1.0]]))
    proposals = Instances((200, 200), proposal_boxes=boxes, objectness_logits=torch.zeros(1))
    with pytest.raises(ValueError, match="Image 1: a predicted box or score is not finite"):
        evaluator.process([{"image_id": 1}], [{"instances": instances([]), "proposals": proposals}])


def test_proposals_recall_what_detections_miss(tmp_path):
    annotations = annotation_file(tmp_path, [(1, 1, BOX), (1, 3, ELSEWHERE)])
    evaluator = OpenVocabularyEvaluator("lvis", annotations, NAMES, ("cat",))
    proposals = Instances((200, 200), proposal_boxes=Boxes(torch.tensor([ELSEWHERE])))
    proposals.objectness_logits = torch.tensor([-3.0])
    evaluator.process([{"image_id": 1}], [{"instances": instances([]), "proposals": proposals}])
    result = evaluator.evaluate()
    assert result["bbox"]["AR@100"] == 0
    assert [result["proposals"][f"AR@100{group}"] for group in ("", "-base", "-novel")] == pytest.approx([50, 0, 100])


@pytest.mark.parametrize("key", ["frequency", "neg_category_ids"])
def test_an_annotation_file_without_the_lvis_fields_is_refused(tmp_path, key):
    path = Path(annotation_file(tmp_path, [(1, 1, BOX)]))
    content = json.loads(path.read_text())
    for row in content["categories"] + content["images"]:
        row.pop(key, None)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f'has no "{key}"'):
        OpenVocabularyEvaluator("lvis", str(path), NAMES)


def test_half_precision_predictions_are_scored(tmp_path):
    evaluator = OpenVocabularyEvaluator("lvis", annotation_file(tmp_path, [(1, 1, BOX)]), NAMES)
    found = instances([(0, BOX, 0.5)])
    found.scores, found.pred_boxes = found.scores.bfloat16(), Boxes(found.pred_boxes.tensor.bfloat16())
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["bbox"]["AP"] == pytest.approx(100)
