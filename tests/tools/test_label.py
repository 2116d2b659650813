"""What tools/label.py promises: annotations that every reader takes, nothing lost, nothing done twice."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dk_detr.commands.label import process
from dk_detr.commands.label.coco import annotations_of
from dk_detr.commands.label.journal import Journal
from dk_detr.data.check import DatasetCheck
from dk_detr.data.image_files import find_images
from dk_detr.detector import Detections
from tests.tools.conftest import TOOLS

WORDS = "apple,cat"


@pytest.fixture
def photos(tiny_images, tmp_path) -> Path:
    """A folder of 12 images, in two sizes."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        with Image.open(tiny_images / f"{number % 5 + 1:06d}.jpg") as image:
            image.resize((64, 48) if number % 2 else (50, 60)).save(folder / f"{number:02d}.jpg")
    return folder


@pytest.fixture
def label(tiny_run, photos, tmp_path, run_tool):
    """Runs the tool; returns its exit status. Later arguments override earlier ones."""

    def run(*arguments: object) -> int:
        common = ("--input", photos, "--classes", WORDS, "--threshold", 0.2)
        return run_tool("label.py", tiny_run / "model_final.pth", *common, *arguments)

    return run


@pytest.fixture
def alone(label, tmp_path) -> bytes:
    """The annotations of a run that nothing interrupted."""
    assert label("--output", tmp_path / "alone.json") == 0
    return (tmp_path / "alone.json").read_bytes()


def test_the_annotations_are_read_by_pycocotools_and_by_our_check(alone, photos, tmp_path):
    file = tmp_path / "alone.json"
    assert list(DatasetCheck(str(file), str(photos), decode=True)) == []
    coco = COCO(str(file))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["apple", "cat"]
    assert coco.getImgIds() == list(range(1, 13)) and coco.getAnnIds() == list(range(1, len(coco.anns) + 1))
    images = [coco.imgs[number] for number in range(1, 13)]
    assert [(image["file_name"], (image["width"], image["height"])) for image in images] == [
        (path.name, Image.open(path).size) for path in sorted(photos.iterdir())
    ]
    assert coco.anns and all(0.2 <= annotation["score"] <= 1 for annotation in coco.anns.values())
    assert not (tmp_path / "alone.json.unfinished").exists()


def test_supervision_writes_yolo_and_voc_with_every_box(label, photos, tmp_path):
    sv = pytest.importorskip("supervision")
    assert label("--output", tmp_path / "a.json", "--format", "yolo", "voc") == 0
    number = len(json.loads((tmp_path / "a.json").read_text())["annotations"])
    coco = sv.DetectionDataset.from_coco(str(photos), str(tmp_path / "a.json"))
    yolo = sv.DetectionDataset.from_yolo(
        str(photos), str(tmp_path / "a_yolo" / "labels"), str(tmp_path / "a_yolo" / "data.yaml")
    )
    voc = sv.DetectionDataset.from_pascal_voc(str(photos), str(tmp_path / "a_voc"))
    assert coco.classes == yolo.classes == ["apple", "cat"]
    for data in (coco, yolo, voc):
        assert sum(len(found) for _, _, found in data) == number > 0


def test_killed_it_goes_on_to_the_same_file_and_does_nothing_twice(
    alone, label, tiny_run, photos, tmp_path, monkeypatch
):
    output, command = tmp_path / "killed.json", [sys.executable, TOOLS / "label.py", tiny_run / "model_final.pth"]
    arguments = ["--input", photos, "--classes", WORDS, "--threshold", "0.2", "--output", output]
    journal = Journal(output)
    with subprocess.Popen([*command, *arguments], env={**os.environ, "PYTHONPATH": str(TOOLS.parent)}) as killed:
        while not (journal.folder / "process_0.jsonl").is_file() or len(journal.places()) < 2:
            assert killed.poll() is None
            time.sleep(0.01)
        killed.kill()
    done = journal.places()
    assert not output.exists()
    with open(journal.folder / "process_0.jsonl", "ab") as file:
        file.write(b'{"image": 11, "file_na')  # a line that the kill has cut
    looked_at, read_image = [], process.read_image
    monkeypatch.setattr(process, "read_image", lambda path: (looked_at.append(path), read_image(path))[1])
    assert label("--output", output) == 0
    assert output.read_bytes() == alone
    assert len(looked_at) == 12 - len(done) and not journal.folder.exists()


def work(rank: int, args: argparse.Namespace, images: list[Path]) -> None:
    """Of one of two processes."""
    process.label(args, images)


def test_two_processes_write_the_same_file(alone, tiny_run, photos, tmp_path, in_two_workers):
    output = tmp_path / "two.json"
    args = argparse.Namespace(
        detector=str(tiny_run / "model_final.pth"), weights=None, device="cpu", opts=[], classes=WORDS, threshold=0.2,
        thresholds=None, words_per_box="best", format=["coco"], output=str(output),
    )  # fmt: skip
    in_two_workers(work, args, find_images([str(photos)]))
    assert output.read_bytes() == alone


def test_a_broken_image_is_named_and_labelled_once_it_is_mended(alone, label, photos, tmp_path, capsys):
    broken, output = photos / "03.jpg", tmp_path / "mended.json"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        assert label("--output", output) == 1
        message = capsys.readouterr().err
        assert "1 of 12 images could not be read" in message and "03.jpg" in message
        content = json.loads(output.read_text())
        assert [image["id"] for image in content["images"]] == list(range(1, 12))
    broken.write_bytes(whole)
    assert label("--output", output) == 0
    assert output.read_bytes() == alone


def test_a_finished_file_is_left_as_it_is(alone, label, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(process.Worker, "work", lambda *_: pytest.fail("labelled again"))
    assert label("--output", tmp_path / "alone.json") == 0
    assert (tmp_path / "alone.json").read_bytes() == alone
    assert "annotations of 12 images are in" in capsys.readouterr().out


def test_the_file_of_another_labelling_is_refused_by_what_differs(alone, label, tmp_path, capsys):
    for message, arguments in {
        'classes is ["apple", "cat"] there, ["apple"] here': ("--classes", "apple"),
        "threshold is 0.2 there, 0.25 here": ("--threshold", 0.25),
        "thresholds.cat is absent there, 0.5 here": ("--thresholds", "cat=0.5"),
        "words_per_box is": ("--words-per-box", "all"),
        "config is": ("--opts", "TEST.DETECTIONS_PER_IMAGE", 3),
    }.items():
        assert label("--output", tmp_path / "alone.json", *arguments) == 1
        assert f"alone.json belongs to another labelling: {message}" in capsys.readouterr().err
        assert (tmp_path / "alone.json").read_bytes() == alone


def test_images_of_the_same_names_in_another_folder_are_another_labelling(alone, label, photos, tmp_path, capsys):
    shutil.copytree(photos, tmp_path / "others")
    assert label("--output", tmp_path / "alone.json", "--input", tmp_path / "others") == 1
    said = capsys.readouterr().err
    assert "alone.json belongs to another labelling" in said and "photos" in said and "others" in said


def test_links_and_formats_that_opencv_cannot_read_become_yolo_too(label, photos, tmp_path):
    pytest.importorskip("supervision")
    links = tmp_path / "links"
    links.mkdir()
    (links / "first.jpg").symlink_to(photos / "00.jpg")
    with Image.open(photos / "01.jpg") as image:
        image.save(links / "second.ico", sizes=[(64, 48)])
    assert label("--input", links, "--output", tmp_path / "a.json", "--format", "yolo", "voc") == 0
    assert {path.name for path in (tmp_path / "a_yolo" / "labels").iterdir()} == {"first.txt", "second.txt"}
    assert {path.name for path in (tmp_path / "a_voc").iterdir()} == {"first.xml", "second.xml"}


def test_images_are_named_below_one_folder_however_they_are_given(label, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(photos)
    (tmp_path / "more").mkdir()
    shutil.copy(photos / "01.jpg", tmp_path / "more" / "b.jpg")
    assert label("--input", "00.jpg", tmp_path / "more" / "b.jpg", "--output", tmp_path / "a.json") == 0
    images = json.loads((tmp_path / "a.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["photos/00.jpg", "more/b.jpg"]


def test_the_unfinished_folder_of_other_images_is_refused_and_so_is_a_foreign_file(label, photos, tmp_path, capsys):
    output = tmp_path / "a.json"
    (photos / "03.jpg").write_text("no image")
    assert label("--output", output) == 1
    shutil.copy(photos / "00.jpg", photos / "zz.jpg")
    output.unlink()
    assert label("--output", output) == 1
    assert 'a.json.unfinished belongs to another labelling: images.last is "11.jpg"' in capsys.readouterr().err
    output.write_text('{"info": {}, "images": []}')
    assert label("--output", output) == 1
    assert "this tool did not write it" in capsys.readouterr().err


def test_two_runs_into_one_file_at_once_are_refused(label, tmp_path, capsys):
    with Journal(tmp_path / "a.json").locked():
        assert label("--output", tmp_path / "a.json") == 1
    assert "Another run is writing into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threshold", 3), "between 0 and 1"),
        (("--thresholds", "zebra=0.5"), 'has "zebra"'),
        (("--classes", "nowhere.txt"), "no file of names nowhere.txt"),
        (("--processes", 0), "at least 1"),
        (("--output", "folder"), "name the annotation file"),
        (("--opts", "A.KEY"), "come in pairs"),
    ],
)
def test_bad_arguments_end_in_one_clear_error(label, tmp_path, capsys, arguments, message):
    assert label("--output", tmp_path / "a.json", *arguments) == 1
    assert message in capsys.readouterr().err


def test_names_that_yolo_would_confuse_are_refused_before_work(label, photos, tmp_path, capsys):
    pytest.importorskip("supervision")
    (photos / "below").mkdir()
    shutil.copy(photos / "00.jpg", photos / "below" / "00.jpg")
    arguments = ("--input", f"{photos}/**", "--output", tmp_path / "a.json")
    assert label(*arguments, "--format", "yolo") == 1
    assert 'one file "00" for 2 images' in capsys.readouterr().err
    assert label(*arguments) == 0
    names = {image["file_name"] for image in json.loads((tmp_path / "a.json").read_text())["images"]}
    assert {"00.jpg", "below/00.jpg"} < names


def test_masks_become_run_lengths_and_what_has_no_area_is_left_out():
    masks = np.zeros((3, 6, 5), dtype=bool)
    masks[0, 2:5, 1:4] = masks[2, 0, 0] = True
    boxes = np.float32([[1, 2, 4, 5], [0, 0, 2, 2], [3, 3, 3, 5]])
    ids, novel, scores = np.zeros(3, dtype=int), np.zeros(3, dtype=bool), np.float32([0.9, 0.8, 0.7])
    found = Detections(boxes, scores, ("cat",) * 3, ids, ("cat",), novel, (6, 5), masks)
    (record,) = json.loads(json.dumps(annotations_of(found)))  # the second's mask is empty, the third's box thin
    assert np.array_equal(mask_util.decode(record["segmentation"]), masks[0])
    assert record["bbox"] == [1, 2, 3, 3] and record["area"] == 9 and record["iscrowd"] == 0
