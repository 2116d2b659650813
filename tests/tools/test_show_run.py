"""What tools/show_run.py promises: a table, and pictures from what the run left in its folder."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as mask_util

from dk_detr.commands import show_run
from dk_detr.structures import Vocabulary

METRICS = {"AP": 31.25, "APr": 20.0, "APc": 30.0, "APf": 40.0, "AP50-base": 60.0, "AP50-novel": 41.06}


@pytest.fixture
def show(run_tool):
    """Runs the tool with its command line; returns its exit status."""
    return partial(run_tool, "show_run.py")


def save_results(run: Path, place: str = "") -> None:
    """What training and evaluation leave: results.json, the detections, and metrics.json."""
    (run / place).mkdir(exist_ok=True)
    (run / place / "results.json").write_text(json.dumps({"iteration": 40, "results": {"bbox": METRICS}}))
    rows = [
        {"image_id": i, "category_id": 3, "bbox": [5.0, 5.0, 30.0, 30.0], "score": 0.9} for i in range(1, 6)
    ]  # fmt: skip
    folder = run / place / "inference" / "mini_lvis_test"
    folder.mkdir(parents=True)
    (folder / "lvis_results.json").write_text(json.dumps(rows))
    lines = [{"iteration": i, "time": 3.0, "loss_class": 5.0 / i, "loss_kd_semantic": 1.0} for i in (19, 39)]
    (run / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("place", ["", "evaluation"])
def test_a_run_that_was_evaluated_is_shown_without_its_weights(place, show, tiny_run, capsys):
    save_results(tiny_run, place)
    (tiny_run / "model_final.pth").unlink()  # so nothing could be predicted anew
    assert show(tiny_run, "--images", 3) == 0
    output = capsys.readouterr().out
    for word in ("AP50-novel", "41.1", "31.2", "iterations", "40", "minutes", "2.0"):
        assert word in output
    for name in ("detections.png", "curves.png"):
        assert str(tiny_run / "pictures" / name) in output
        assert Image.open(tiny_run / "pictures" / name).width > 500


def test_each_of_several_data_sets_has_its_line(tiny_run):
    several = {"one_val": {"bbox": METRICS}, "other_val": {"bbox": {"AP50": 77.0, "AP75": 5.0}}}
    (tiny_run / "results.json").write_text(json.dumps({"iteration": 40, "results": several}))
    header, _, first, second = show_run.summary(tiny_run, tuple(several)).splitlines()
    assert header.split()[:4] == ["data", "set", "AP", "APr"]
    assert first.split()[:3] == ["one_val", "31.2", "20.0"] and second.split() == ["other_val", "77.0"]


def test_masks_have_a_line_and_are_drawn_on_both_sides(tiny_run):
    save_results(tiny_run)
    results = {"bbox": METRICS, "segm": {"AP": 12.5}}
    (tiny_run / "results.json").write_text(json.dumps({"iteration": 40, "results": results}))
    lines = [line.split() for line in show_run.summary(tiny_run, ("mini_lvis_test",)).splitlines()]
    assert lines[0][0] == "of" and lines[2][:2] == ["boxes", "31.2"] and lines[3][:2] == ["masks", "12.5"]

    triangle = [5.0, 5.0, 15.0, 5.0, 15.0, 15.0]
    runs = {"size": [20, 30], "counts": mask_util.frPyObjects([triangle], 20, 30)[0]["counts"].decode()}
    row = {"image_id": 1, "category_id": 3, "bbox": [5.0, 5.0, 10.0, 10.0], "score": 0.9, "segmentation": runs}
    file = tiny_run / "rows.json"
    file.write_text(json.dumps([row]))
    record = {"image_id": 1, "height": 20, "width": 30}
    found = show_run._saved_detections(file, "mini_lvis_test")(record)
    assert found.pred_masks.shape == (1, 20, 30) and found.pred_masks[0, 7, 14] and not found.pred_masks[0, 14, 7]
    words = Vocabulary(("jar",), torch.ones(1, 1), torch.zeros(1, dtype=torch.bool))
    thing = {"category_id": 0, "bbox": [5, 5, 10, 10], "bbox_mode": BoxMode.XYWH_ABS, "segmentation": [triangle]}
    truth = show_run._ground_truth({**record, "annotations": [thing]}, words, with_masks=True)
    assert (truth.masks == found.pred_masks.numpy()).all()
    del thing["segmentation"]
    assert show_run._ground_truth({**record, "annotations": [thing]}, words, with_masks=True).masks is None


def test_saved_detections_are_those_that_are_drawn(show, tiny_run):
    save_results(tiny_run)
    show(tiny_run, "--images", 2)
    drawn = Image.open(tiny_run / "pictures" / "detections.png").tobytes()
    show(tiny_run, "--images", 2, "--confidence-threshold", 0.95)
    assert Image.open(tiny_run / "pictures" / "detections.png").tobytes() != drawn


def test_without_saved_detections_the_weights_are_asked(show, tiny_run, capsys):
    assert show(tiny_run, "--images", 2) == 0
    assert (tiny_run / "pictures" / "detections.png").is_file()
    output = capsys.readouterr().out
    assert "was not evaluated yet" in output and "--eval-only" in output
    assert "curves.png" not in output


@pytest.mark.parametrize(
    ("lost", "arguments", "message"),
    [
        ("config.yaml", (), "holds no run"),
        ("model_final.pth", (), "MODEL.WEIGHTS is empty"),
        ("nothing", ("--images", 0), "--images must be 1 or more"),
    ],
)
def test_what_is_missing_is_said_in_one_clear_error(show, tiny_run, capsys, lost, arguments, message):
    (tiny_run / lost).unlink(missing_ok=True)
    assert show(tiny_run, *arguments) == 1
    assert message in capsys.readouterr().err


def record(number: int, *classes: int) -> dict:
    return {"image_id": number, "annotations": [{"category_id": c} for c in classes]}


def test_images_with_novel_objects_come_first_and_each_novel_class_early():
    records = [record(0, 1, 1), record(1, 7), record(2, 1, 7), record(3, 2), record(4, 8), record(5, 1)]
    for seed in range(5):
        chosen = [r["image_id"] for r in show_run.choose_images(records, {7, 8}, 4, seed)]
        assert {4} < set(chosen[:2]) <= {1, 2, 4}  # one image of each novel class
        assert set(chosen[:3]) == {1, 2, 4}
        assert chosen == [r["image_id"] for r in show_run.choose_images(records, {7, 8}, 4, seed)]
    assert len(show_run.choose_images(records, {7}, 100, 0)) == len(records)
