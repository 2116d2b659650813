"""tools/score.py from its command line."""

import json
from pathlib import Path

import pytest

from dk_detr.annotations.ov_coco import BASE, NOVEL
from tests.evaluation.random_worlds import random_world, write

BOX = [10, 10, 40, 40]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    annotations, results = random_world(tmp_path, 0)
    return ["--annotations", annotations, "--results", results]


def ov_coco(folder: Path) -> list[str]:
    """One person and one cat, of which the cat is found."""
    categories = [{"id": number, "name": name} for name, number in {**BASE, **NOVEL}.items()]
    things = [{"id": i, "image_id": 1, "category_id": k, "bbox": BOX, "area": 1600} for i, k in ((1, 1), (2, 17))]
    image = {"id": 1, "height": 64, "width": 64}
    content = {"images": [image], "annotations": things, "categories": categories}
    rows = [{"image_id": 1, "category_id": 17, "bbox": BOX, "score": 0.5}]
    return ["--annotations", write(folder / "ov.json", content), "--results", write(folder / "found.json", rows)]


def test_the_metrics_are_printed_and_written(files, tmp_path, run_tool, capsys):
    options = ["--protocol", "lvis", "--json", tmp_path / "out" / "scores.json", "--tables", tmp_path / "out"]
    assert run_tool("score.py", *files, *options) == 0
    metrics = json.loads((tmp_path / "out" / "scores.json").read_text())["bbox"]
    assert 0 < metrics["AP"] < 100 and metrics["AP-novel"] == metrics["APr"]
    printed = capsys.readouterr().out
    assert f"{metrics['AP']:.2f}" in printed and "novel" in printed
    assert (tmp_path / "out" / "lvis_categories.csv").is_file() and (tmp_path / "out" / "lvis_categories.md").is_file()


def test_the_novel_names_of_ov_coco_are_known(tmp_path, run_tool):
    assert run_tool("score.py", *ov_coco(tmp_path), "--protocol", "ov-coco", "--json", tmp_path / "scores.json") == 0
    metrics = json.loads((tmp_path / "scores.json").read_text())["bbox"]
    assert (metrics["AP50-novel"], metrics["AP50-base"], metrics["AP50"]) == pytest.approx((100, 0, 50))


def test_novel_is_what_the_command_line_says(files, tmp_path, run_tool):
    novel = [row["name"] for row in json.loads(Path(files[1]).read_text())["categories"]]
    options = ["--protocol", "coco", "--novel", ", ".join(novel), "--json", tmp_path / "scores.json"]
    assert run_tool("score.py", *files, *options) == 0
    metrics = json.loads((tmp_path / "scores.json").read_text())["bbox"]
    assert metrics["AP-novel"] == metrics["AP"] > 0 and metrics["AP-base"] is None


def test_no_name_is_novel_if_that_is_said(tmp_path, run_tool):
    options = ["--protocol", "ov-coco", "--novel", "", "--json", tmp_path / "scores.json"]
    assert run_tool("score.py", *ov_coco(tmp_path), *options) == 0
    metrics = json.loads((tmp_path / "scores.json").read_text())["bbox"]
    assert metrics["AP50-base"] == metrics["AP50"] and metrics["AP50-novel"] is None


def test_masks_stand_under_segm(files, tmp_path, run_tool):
    rows = json.loads(Path(files[3]).read_text())
    for row in rows:
        x, y, w, h = row.pop("bbox")
        row["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    files[3] = write(tmp_path / "masks.json", rows)
    options = ["--protocol", "coco", "--iou-type", "segm", "--json", tmp_path / "scores.json"]
    assert run_tool("score.py", *files, *options) == 0
    assert list(json.loads((tmp_path / "scores.json").read_text())) == ["segm"]
    assert run_tool("score.py", *files, *options[:-2], "--tables", tmp_path / "out") == 0
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"coco_categories_masks.csv", "coco_categories_masks.md"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol", "lvis", "--novel", "unicorn"], '"unicorn"'),
        (["--protocol", "ov-coco"], "has none of the 65 categories of OV-COCO"),
        (["--protocol", "coco", "--iou-type", "segm"], 'no "segmentation"'),
        (["--protocol", "coco", "--results", "absent.json"], "no file of results absent.json"),
    ],
)
def test_what_cannot_be_scored_is_one_line_and_exit_status_1(files, tmp_path, run_tool, capsys, options, words):
    assert run_tool("score.py", *files, *options, "--json", tmp_path / "scores.json") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert not (tmp_path / "scores.json").exists()
