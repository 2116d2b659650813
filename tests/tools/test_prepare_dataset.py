"""tools/prepare_dataset.py from its command line: files where the data sets look for them, counts, one clear error."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dk_detr.data import DATASETS, categories_of, register_all
from tests.run_fixtures import COCO_IDS, World, add_box, annotations_of, image_entry, write_json

Run = Callable[..., int]
TOOL = "prepare_dataset.py"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DETECTRON2_DATASETS."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def official_lvis(root: Path) -> None:
    content = annotations_of([image_entry(1, "train2017/1.jpg"), image_entry(2, "val2017/2.jpg")])
    for image in content["images"]:
        image["coco_url"] = f"http://images/{image['file_name']}"
    add_box(content, 1, 3, [0, 0, 5, 5])
    for part in ("train", "val"):
        write_json(root / f"lvis/lvis_v1_{part}.json", content)


def official_coco(root: Path) -> None:
    content = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 9, "height": 9}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": number, "name": name} for name, number in COCO_IDS.items()],
    }
    for part in ("train", "val"):
        write_json(root / f"coco/annotations/instances_{part}2017.json", content)


def official_voc(root: Path) -> None:
    (root / "VOC2007/ImageSets/Main").mkdir(parents=True)
    (root / "VOC2007/ImageSets/Main/test.txt").write_text("000001\n")
    (root / "VOC2007/Annotations").mkdir()
    (root / "VOC2007/Annotations/000001.xml").write_text(
        "<annotation><size><width>9</width><height>9</height></size></annotation>"
    )


def official_objects365(root: Path) -> None:
    image = {"id": 1, "file_name": "images/v1/patch1/a.jpg", "width": 9, "height": 9}
    content = {"images": [image], "annotations": [], "categories": [{"id": 1, "name": "Person"}]}
    for part in ("val", "train"):
        write_json(root / f"objects365/annotations/zhiyuan_objv2_{part}.json", content)
        (root / f"objects365/{part}/patch1").mkdir(parents=True)
        (root / f"objects365/{part}/patch1/a.jpg").touch()


OFFICIAL: dict[str, Callable[[Path], None]] = {
    "lvis-norare": official_lvis,
    "lvis-minival": official_lvis,
    "ov-coco": official_coco,
    "voc": official_voc,
    "objects365": official_objects365,
    "objects365 --part train": official_objects365,
}


@pytest.mark.parametrize("command", OFFICIAL)
def test_every_command_makes_the_data_sets_that_name_it(
    command: str, root: Path, run_tool: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    OFFICIAL[command](root)
    assert run_tool(TOOL, *command.split(), "--counts", "any") == 0
    printed = capsys.readouterr().out
    made = [name for name, dataset in DATASETS.items() if dataset.made_by == command]
    assert made
    register_all()
    for name in made:
        assert str(root / DATASETS[name].json_file) in printed
        assert categories_of(name)


def test_every_data_set_that_a_command_makes_names_one_that_there_is() -> None:
    assert {dataset.made_by for dataset in DATASETS.values()} - {""} == set(OFFICIAL)


def test_counts_stand_beside_the_expected_ones(root: Path, run_tool: Run, capsys: pytest.CaptureFixture[str]) -> None:
    official_coco(root)
    run_tool(TOOL, "ov-coco", "--counts", "any")
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()
    assert [line.split() for line in table[3:6]] == [
        ["images", "1", "107761"], ["annotations", "1", "665387"], ["categories", "65", "65"],
    ]  # fmt: skip
    assert table[6].startswith("Left out of its source: ") and "15 categories" in table[6]


@pytest.mark.parametrize("command", OFFICIAL)
def test_a_part_of_the_official_files_is_one_clear_error_and_nothing_is_written(
    command: str, root: Path, run_tool: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    OFFICIAL[command](root)
    before = sorted(path for path in root.rglob("*") if path.is_file())
    assert run_tool(TOOL, *command.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "expected are" in error
    assert sorted(path for path in root.rglob("*") if path.is_file()) == before


@pytest.mark.parametrize("command", OFFICIAL)
def test_missing_files_are_one_clear_error(
    command: str, root: Path, run_tool: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool(TOOL, *command.split()) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: There is no ") and str(root) in error and error.count("\n") == 1


def test_custom_writes_two_files(root: Path, run_tool: Run, capsys: pytest.CaptureFixture[str]) -> None:
    content = annotations_of([image_entry(i, f"{i}.png") for i in range(4)])
    add_box(content, 1, 3, [0, 0, 5, 5])
    source = write_json(root / "mine.json", content)
    assert run_tool(TOOL, "custom", "--source", source, "--output", root / "parts", "--novel", "blue_box") == 0
    train = json.loads((root / "parts/train.json").read_text())
    assert len(train["images"]) == 3 and not train["annotations"]
    assert "parts/val.json" in capsys.readouterr().out


def test_check_reads_a_registered_data_set(world: World, run_tool: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The tests' world says of each image that its objects are not there."""
    with world.in_use():
        assert run_tool(TOOL, "check", "mini_lvis_val") == 1
    printed = capsys.readouterr().out
    assert str(world.root / "mini_lvis/annotations/mini_lvis_val.json") in printed and "20 defects" in printed


def test_a_command_must_be_named(run_tool: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_tool(TOOL) == 2
    assert "COMMAND" in capsys.readouterr().err
