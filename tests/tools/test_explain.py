"""What tools/explain.py promises: sheets, one JSON, and one clear error for what cannot be explained."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from dk_detr.engine import setup_cfg
from dk_detr.language import build_vocabulary, clip_from_config, save_vocabulary


@pytest.fixture
def explain(tiny_run, tiny_images, tmp_path, run_tool):
    """Runs the tool with its command line; returns its exit status. Later arguments override earlier ones."""

    def run(*arguments: object, opts: tuple[object, ...] = ()) -> int:
        common = ["--config-file", tiny_run / "config.yaml", "--input", tiny_images / "000001.jpg"]
        place = ["--output", tmp_path / "explained", "--confidence-threshold", 0.0, "--detections", 1]
        weights = ["--opts", "MODEL.WEIGHTS", tiny_run / "model_final.pth"]
        return run_tool("explain.py", *common, *place, *arguments, *weights, *opts)

    return run


@pytest.fixture
def taught(tiny_run, tmp_path):
    """Options that make of the run a detector that CLIP taught, in its own queries."""
    config, clip = str(tiny_run / "config.yaml"), tmp_path / "clip.pt"
    torch.save(clip_from_config(setup_cfg(config)).model.state_dict(), clip)
    options = ["MODEL.CLIP.WEIGHTS", str(clip)]
    words = build_vocabulary(["apple", "fishing boat", "cat"], clip_from_config(setup_cfg(config, options)), "name")
    save_vocabulary(words, str(tmp_path / "words.npz"))
    distilled = ["MODEL.TRAINING_EXTENSIONS", "['Distillation']", "MODEL.KD.TERMS", "['relational']"]
    return (
        *options,
        *distilled,
        "MODEL.KD.QUERIES",
        "Detection",
        "MODEL.KD.NUM_SLOTS",
        4,
        "MODEL.VOCABULARY.TEST",
        tmp_path / "words.npz",
    )


def numbers(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "explained" / "000001_explained.json").read_text())


def test_a_sheet_and_its_numbers_are_written(explain, tmp_path, capsys):
    assert explain() == 0
    said = numbers(tmp_path)
    assert said["pictures"] == ["000001_detection_1.png"]
    assert Image.open(tmp_path / "explained" / said["pictures"][0]).width == 2080
    (detection,) = said["detections"]
    assert detection["name"] in {"apple", "fishing_boat", "cat"}
    assert detection["steps"][-1]["place"] == detection["box"]
    assert {word["name"]: word["score"] for word in detection["words"]}[detection["name"]] == detection["score"]
    assert said["teaching"] is None
    assert "explained: 1" in capsys.readouterr().out


def test_what_clip_says_is_shown_of_a_distilled_detector(explain, taught, tmp_path):
    assert explain("--teacher", opts=taught) == 0
    said = numbers(tmp_path)
    assert said["pictures"][1:] == ["000001_regions.png", "000001_relations.png"]
    assert all((tmp_path / "explained" / name).is_file() for name in said["pictures"])
    relations = said["teaching"]["relations"]
    number = len(said["teaching"]["regions"])
    assert number > 1
    for side in ("teacher", "student"):
        assert torch.tensor(relations[side]).sum(1).tolist() == pytest.approx([1.0] * number, abs=1e-4)


def test_a_clip_that_is_not_there_leaves_the_teacher_out_unless_it_is_asked_for(
    explain, taught, tmp_path, capsys, caplog
):
    lost = (*taught, "MODEL.CLIP.WEIGHTS", tmp_path / "lost.pt")
    assert explain(opts=lost) == 0
    assert numbers(tmp_path)["teaching"] is None
    assert any("What the teacher says is left out" in message and "lost.pt" in message for message in caplog.messages)
    assert explain("--teacher", opts=lost) == 1
    assert "lost.pt" in capsys.readouterr().err


def test_without_a_confident_detection_the_best_is_explained_and_that_is_said(explain, tmp_path, capsys):
    assert explain("--confidence-threshold", 1.0) == 0
    assert "No detection has a score of at least 1" in capsys.readouterr().out
    assert numbers(tmp_path)["above_threshold"] == 0
    assert len(numbers(tmp_path)["detections"]) == 1


def test_bad_input_ends_in_one_line_before_anything_is_written(explain, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no image")
    cases = [
        (("--input", tmp_path / "broken.jpg"), "broken.jpg"),
        (("--input", tmp_path / "absent.jpg"), "There is no image"),
        (("--input", tmp_path), "There is no image"),
        (("--teacher",), 'has no "Distillation": this detector was not taught by CLIP'),
        (("--detections", 0), "--detections 0 must be 1 or more"),
        (("--confidence-threshold", 2), "must be between 0 and 1"),
        (("--vocabulary", "custom"), "needs the names"),
    ]
    for arguments, message in cases:
        assert explain(*arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert message in lines[-1] and lines[-1].startswith("error: ")
    assert not (tmp_path / "explained").exists()
