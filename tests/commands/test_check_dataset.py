"""What `tools/prepare_dataset.py check` says, writes and returns."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dk_detr.commands import check_dataset
from dk_detr.data import register_all
from dk_detr.language import save_vocabulary
from tests.run_fixtures import draw_images, words, write_json


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Data sets with images and no file of annotations; DETECTRON2_DATASETS while the test lasts."""
    write(tmp_path, draw_images(tmp_path / "mini_lvis" / "train"))
    with monkeypatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(tmp_path))
        register_all()
        yield tmp_path
    register_all()


def write(root: Path, content: dict[str, Any]) -> str:
    """As mini_lvis_val; the lists of the fixture, which call every category absent, are taken away."""
    for image in content["images"]:
        image["neg_category_ids"] = []
    return write_json(root / "mini_lvis" / "annotations" / "mini_lvis_val.json", content)


def spoil(root: Path, **box: Any) -> None:
    """Give the first three annotations other fields."""
    content = json.loads((root / "mini_lvis" / "annotations" / "mini_lvis_val.json").read_text())
    for annotation in content["annotations"][:3]:
        annotation.update(box)
    write(root, content)


def check(*arguments: str) -> int:
    """The exit status of the command."""
    parser = argparse.ArgumentParser()
    check_dataset.add_arguments(parser)
    with pytest.raises(SystemExit) as end:
        check_dataset.main(parser.parse_args(arguments))
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_sound_data_set_passes_by_its_registered_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check("mini_lvis_val") == 0
    said = capsys.readouterr().out
    assert f"{root}/mini_lvis/annotations/mini_lvis_val.json: 8 images, 20 annotations, 3 categories" in said
    assert said.endswith("No defects.\n")


def test_defects_are_counted_and_the_first_are_said_in_full(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(root, category_id=9)
    assert check("mini_lvis_val", "--show", "2") == 1
    said = capsys.readouterr().out
    table = [[cell.strip() for cell in line.split("|")[1:4]] for line in said.splitlines() if line.startswith("|")]
    assert table[2:] == [["unknown category", "3", "defect"]]
    assert "unknown category (2 of 3):\n" in said
    place = f"{root}/mini_lvis/annotations/mini_lvis_val.json, image 1 (train/000001.png), annotation 2, category 9"
    assert f"{place}: its category 9 is not in the file\n" in said and "annotation 3" not in said
    assert said.endswith("3 defects. --report FILE writes all of them.\n")


def test_notes_are_no_defects(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((root / "mini_lvis" / "annotations" / "mini_lvis_val.json").read_text())
    content["categories"].append({"id": 4, "name": "grey_box"})
    write(root, content)
    assert check("mini_lvis_val") == 0
    assert "No defects, 1 notes." in capsys.readouterr().out


def test_files_of_ones_own_are_checked_by_their_paths(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(root / "mini_lvis" / "annotations" / "mini_lvis_val.json")
    assert check("--json", file, "--images", str(root / "mini_lvis")) == 0
    assert check("--json", file, "--images", str(root)) == 1
    assert "missing image (5 of 8):" in capsys.readouterr().out


def test_the_report_has_everything_one_object_a_line(root: Path) -> None:
    spoil(root, bbox=[60, 1, 30, 4])
    report = root / "reports" / "report.jsonl"
    assert check("mini_lvis_val", "--show", "1", "--report", str(report)) == 1
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [(line["kind"], line["annotation_id"], line["image_id"], line["note"]) for line in lines] == [
        ("box out of image", 1, 1, False), ("box out of image", 2, 1, False), ("box out of image", 3, 1, False),
    ]  # fmt: skip
    assert lines[0]["file"].endswith("mini_lvis_val.json") and lines[0]["file_name"] == "train/000001.png"
    assert "26 pixels right of the image" in lines[0]["message"]


def test_the_vocabulary_must_have_every_name(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_vocabulary(words(), str(root / "words.npz"))
    assert check("mini_lvis_val", "--vocabulary", str(root / "words.npz")) == 0
    save_vocabulary(words(("red box", "green_box", "blue_box")), str(root / "words.npz"))
    assert check("mini_lvis_val", "--vocabulary", str(root / "words.npz")) == 1
    assert 'no "red_box"; the nearest that it has is "red box"' in capsys.readouterr().out


def test_decoding_finds_images_that_are_cut_short(root: Path) -> None:
    image = root / "mini_lvis" / "train" / "000002.png"
    image.write_bytes(image.read_bytes()[:-40])
    assert check("mini_lvis_val") == 0
    assert check("mini_lvis_val", "--decode") == 1


# ---- refusals ----


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert check(*arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_what_cannot_be_checked_is_refused_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(root / "mini_lvis" / "annotations" / "mini_lvis_val.json")
    assert "Name a data set, or give --json FILE --images DIR" in refusal(capsys)
    assert "one of the two" in refusal(capsys, "mini_lvis_val", "--json", file)
    assert "needs --images DIR" in refusal(capsys, "--json", file)
    assert 'no data set "mini_lvis_vall"; this project has: ' in refusal(capsys, "mini_lvis_vall")
    assert "no annotation file in COCO or LVIS format" in refusal(capsys, "cityscapes_fine_sem_seg_train")
    assert f"needs {root}/lvis/lvis_v1_val.json, which is not there" in refusal(capsys, "lvis_v1_val")
    assert "prepare_dataset.py lvis-norare` makes it" in refusal(capsys, "lvis_v1_train_norare")
    (root / "lvis").mkdir()
    (root / "lvis" / "lvis_v1_val.json").write_text("{}")
    assert f"needs {root}/coco, which is not there. Put its images there" in refusal(capsys, "lvis_v1_val")
    assert "no image folder nowhere" in refusal(capsys, "--json", file, "--images", "nowhere")
    assert "would overwrite what is read" in refusal(capsys, "mini_lvis_val", "--report", file)
    Path(file).write_text("")
    assert "mini_lvis_val.json is no whole JSON file" in refusal(capsys, "mini_lvis_val", "--report", f"{root}/r.jsonl")
    assert not list(root.glob("r.jsonl*"))


# ---- Ctrl-C ----


def test_ctrl_c_ends_with_how_far_it_came_and_what_was_found(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(root, category_id=9)
    monkeypatch.setattr("dk_detr.data.check.images.TOGETHER", 1)
    monkeypatch.setattr("dk_detr.data.check.images.JOBS_AT_ONCE", 1)
    looked_at = []

    def press_ctrl_c_at_the_sixth(path: str, *_: Any) -> None:
        looked_at.append(path)
        if len(looked_at) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr("dk_detr.data.check.images.image_fault", press_ctrl_c_at_the_sixth)
    assert check("mini_lvis_val", "--report", str(root / "r.jsonl")) == 130
    said = capsys.readouterr().out
    assert "unknown category (3 of 3):" in said
    assert "Interrupted: all records were read, 5 of 8 images opened." in said
    assert f"{root}/r.jsonl was not written" in said and not list(root.glob("r.jsonl*"))
    assert len(looked_at) == 6
