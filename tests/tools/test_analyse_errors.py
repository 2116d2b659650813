"""tools/analyse_errors.py from its command line: of files, and of the folder of a run."""

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from dk_detr.data import register_all
from dk_detr.evaluation import evaluate_file
from tests.evaluation.random_worlds import random_world


@pytest.fixture
def analyse(run_tool):
    """Runs the tool with its command line; returns its exit status."""
    return partial(run_tool, "analyse_errors.py")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    annotations, results = random_world(tmp_path, 0)
    return ["--annotations", annotations, "--results", results, "--protocol", "lvis"]


def evaluated(run: Path, data: Path, place: str = "", word: int = 0) -> Path:
    """Leave what an evaluation of `mini_lvis_test` leaves, in which every object is found; with one word for all, if it
    is given. Returns the annotation file."""
    annotations = data / "mini_lvis" / "annotations" / "mini_lvis_test.json"
    things = json.loads(annotations.read_text())["annotations"]
    rows = [{key: thing[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for thing in things]
    for row in rows:
        row["category_id"] = word or row["category_id"]
    folder = run / place / "inference" / "mini_lvis_test"
    folder.mkdir(parents=True)
    (folder / "lvis_results.json").write_text(json.dumps(rows))
    (run / place / "results.json").write_text(json.dumps({"iteration": 40, "results": {"bbox": {"AP": 1.0}}}))
    return annotations


def test_tables_numbers_and_a_picture_come_from_files(files, analyse, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--json", out / "errors.json", "--tables", out, "--picture", out / "errors.png"]
    assert analyse(*files, *options, "--group", "some=thing 3, thing 5", "--group", "one=thing 11") == 0
    groups = json.loads((out / "errors.json").read_text())["groups"]
    assert list(groups) == ["all", "base", "novel", "some", "one", "rare", "common", "frequent"]
    metrics = evaluate_file(files[1], files[3], "lvis")["bbox"]
    assert groups["novel"]["ap50"] == pytest.approx(metrics["AP50-novel"], abs=1e-9)
    assert groups["one"]["words"] == 1 and groups["some"]["words"] == 2
    printed = capsys.readouterr().out
    assert f"novel words: AP50 {metrics['AP50-novel']:.1f}; most would be won with" in printed
    assert f"picture: {out / 'errors.png'}" in printed
    assert (out / "lvis_errors.md").read_text().startswith("LVIS, boxes")
    assert (out / "lvis_errors_words.md").read_text().startswith("| word")
    with Image.open(out / "errors.png") as picture:
        assert picture.format == "PNG" and picture.width > 1000


def test_novel_is_what_the_command_line_says(files, analyse, tmp_path):
    assert analyse(*files, "--novel", "thing 3", "--json", tmp_path / "e.json") == 0
    groups = json.loads((tmp_path / "e.json").read_text())["groups"]
    assert groups["novel"]["words"] == 1 and groups["rare"]["words"] == 2


@pytest.mark.parametrize("place", ["", "evaluation"])
def test_a_run_finds_its_files_its_novel_names_and_its_place_for_the_picture(
    place, analyse, tiny_run, tiny_files, capsys
):
    evaluated(tiny_run, tiny_files, place)
    assert analyse("--output-dir", tiny_run, "--json", tiny_run / "errors.json") == 0
    groups = json.loads((tiny_run / "errors.json").read_text())["groups"]
    assert groups["all"]["ap50"] == pytest.approx(100) and groups["novel"]["words"] == 1
    assert Image.open(tiny_run / "pictures" / "errors.png").width > 1000
    assert str(tiny_run / "pictures" / "errors.png") in capsys.readouterr().out


def test_words_that_are_taken_for_others_are_named(analyse, tiny_run, tiny_files, capsys):
    evaluated(tiny_run, tiny_files, word=1)
    assert analyse("--output-dir", tiny_run, "--picture", "") == 0
    printed = capsys.readouterr().out
    assert "novel words: AP50 0.0; most would be won with right words (+100.0)." in printed
    assert any(line.split("|")[1:4:2] == [" cat          ", " apple       "] for line in printed.splitlines()
               if line.startswith("| cat"))  # fmt: skip
    assert not (tiny_run / "pictures").exists()


def test_unseen_words_of_a_run_are_a_group_as_in_its_evaluation(analyse, tiny_run, tiny_files, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shutil.copytree(tiny_files / "mini_lvis", data / "mini_lvis")
    annotations = evaluated(tiny_run, data)
    content = json.loads(annotations.read_text())
    content["categories"][2]["unseen_concept"] = True
    annotations.write_text(json.dumps(content))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(data))
    register_all()
    assert analyse("--output-dir", tiny_run, "--json", tmp_path / "e.json", "--group", "fruit=apple") == 0
    groups = json.loads((tmp_path / "e.json").read_text())["groups"]
    assert list(groups)[:5] == ["all", "base", "novel", "novel-unseen", "fruit"]
    assert groups["novel-unseen"] == groups["novel"] and groups["fruit"]["words"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--novel", "unicorn"], '"unicorn"'),
        (["--protocol", "ov-coco"], "has none of the 65 categories of OV-COCO"),
        (["--iou-type", "segm"], 'no "segmentation"'),
        (["--results", "absent.json"], "no file of results absent.json"),
        (["--results", ""], "--results is missing"),
        (["--group", "unseen"], '--group "unseen" is not NAME=A,B'),
        (["--group", "a=thing 3", "--group", "a=thing 5"], 'names the group "a" twice'),
        (["--group", "novel=thing 3"], 'The group "novel" is always there'),
        (["--group", "a=unicorn"], 'Group "a": 1 not in'),
        (["--picture", "errors.gif"], "--picture errors.gif does not end in .png"),
        (["--dataset", "mini_lvis_test"], "--dataset chooses a data set of a run"),
        (["--output-dir", "run"], "leave out --annotations"),
    ],
)
def test_what_cannot_be_analysed_is_one_line_and_exit_status_1(files, tmp_path, analyse, capsys, options, words):
    assert analyse(*files, *options, "--json", tmp_path / "e.json") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "e.json").exists()


def test_a_folder_without_a_run_or_without_detections_is_told(analyse, tiny_run, tmp_path, capsys):
    assert analyse("--output-dir", tmp_path / "nowhere") == 1
    assert "holds no run" in capsys.readouterr().err
    assert analyse("--output-dir", tiny_run) == 1
    error = capsys.readouterr().err
    assert "has no detections of mini_lvis_test" in error and "--eval-only --resume" in error
    assert analyse("--output-dir", tiny_run, "--dataset", "coco_val") == 1
    assert "--dataset coco_val is not in DATASETS.TEST" in capsys.readouterr().err
