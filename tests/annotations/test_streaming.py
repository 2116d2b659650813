"""Annotation files item by item: the same as `json` reads and writes, in little memory, whole or not at all."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dk_detr.annotations.streaming import Item, items_of, read_items, rewrite, write_items

CONTENT: dict[str, Any] = {
    "info": {"year": 2017, "notes": ["a", "b"]},
    "images": [{"id": 1, "file_name": "\u00e4 \"]}, [{.jpg"}, {"id": 2, "file_name": "b\\.jpg"}],
    "licenses": [],
    "annotations": [{"id": 10 + i, "bbox": [0.5, -1e-3, 2.0, i], "segmentation": [[1.0] * i]} for i in range(40)],
    "categories": [{"id": 3, "name": "x"}],
    "version": 12,
}
MEGABYTE = 1 << 20
OBJECTS365_TRAIN = 6 << 30  # bytes, about
LIMIT = 4 << 30  # bytes, for a file as large as that


def together(path: Path, chunk: int) -> dict[str, Any]:
    """The whole content again, put together from its items."""
    content: dict[str, Any] = {}
    for item in read_items(str(path), chunk):
        if item.in_list:
            content.setdefault(item.key, []).append(item.value)
        else:
            content[item.key] = item.value
    return content


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(CONTENT, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_items_are_what_json_reads_wherever_the_file_is_cut(chunk: int, indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(CONTENT, indent=indent))
    assert together(path, chunk) == CONTENT


@pytest.mark.parametrize("chunk", range(1, 16))
def test_a_number_is_read_whole_wherever_it_is_cut(chunk: int, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text('{"a": 12.5e-7, "b": [345]}')
    assert together(tmp_path / "file.json", chunk) == {"a": 12.5e-7, "b": [345]}


def test_one_list_is_read_alone(file: Path) -> None:
    assert list(items_of(str(file), "images")) == CONTENT["images"]


def test_a_copy_without_changes_says_the_same(file: Path, tmp_path: Path) -> None:
    counts = rewrite(str(file), str(tmp_path / "copy.json"), {})
    assert json.loads((tmp_path / "copy.json").read_text()) == CONTENT
    assert counts == {"images": 2, "annotations": 40, "categories": 1}


def test_changed_elements_stand_in_the_place_of_the_old_and_none_leaves_out(file: Path, tmp_path: Path) -> None:
    changes: dict[str, Callable[[Any], Any]] = {
        "images": lambda image: {"id": image["id"]},
        "annotations": lambda box: box if box["id"] > 48 else None,
    }
    rewrite(str(file), str(file), changes)
    copy = json.loads(file.read_text())
    assert copy["images"] == [{"id": 1}, {"id": 2}]
    assert [box["id"] for box in copy["annotations"]] == [49]
    assert copy["info"] == CONTENT["info"]


def test_lists_that_lose_all_elements_are_there_and_empty(file: Path) -> None:
    rewrite(str(file), str(file), {key: lambda element: None for key in ("images", "annotations", "categories")})
    copy = json.loads(file.read_text())
    assert copy["images"] == copy["annotations"] == copy["categories"] == []


def test_what_is_in_memory_is_written_as_json_writes_it(tmp_path: Path) -> None:
    write_items(str(tmp_path / "file.json"), CONTENT)
    assert json.loads((tmp_path / "file.json").read_text()) == CONTENT


def test_numbers_that_are_not_accepted_leave_the_old_file_and_nothing_else(file: Path, tmp_path: Path) -> None:
    def refuse(counts: Any) -> None:
        raise ValueError(f"{counts['annotations']} boxes")

    target = tmp_path / "target.json"
    target.write_text("old")
    with pytest.raises(ValueError, match="40 boxes"):
        rewrite(str(file), str(target), {}, refuse)
    assert target.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.json", "target.json"]


# ---- memory ----


def generate(path: Path, size: int) -> None:
    """A file like Objects365's, of about so many bytes."""
    image = '{"id": %d, "file_name": "images/v1/patch8/objects365_v1_%08d.jpg", "width": 769, "height": 512, "url": ""}'
    box = (
        '{"id": %d, "iscrowd": 0, "isfake": 0, "area": 1584.6324365356109, "isreflected": 0, "image_id": 0, '
        '"bbox": [491.3955078011, 88.1856689664, 35.65588379410002, 44.442382], "category_id": 84}'
    )
    number = size // 200
    with open(path, "w") as file:
        file.write('{"images": [' + ", ".join(image % (i, i) for i in range(number // 15)))
        file.write('], "annotations": [' + ", ".join(box % i for i in range(number)))
        file.write('], "categories": [{"id": 84, "name": "Air Conditioner"}]}')


def peak_of_copying(folder: Path, size: int) -> int:
    """Bytes at the worst moment."""
    source = folder / f"{size}.json"
    generate(source, size)
    tracemalloc.start()
    rewrite(str(source), str(folder / "copy.json"), {"annotations": lambda box: {"id": box["id"]}})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_in_proportion_under_4_gib_for_objects365_and_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """`json.load` takes six times the size of such a file."""
    small, large = 5 * MEGABYTE, 10 * MEGABYTE
    peaks = [peak_of_copying(tmp_path, size) for size in (small, large)]
    assert peaks[1] < LIMIT * large / OBJECTS365_TRAIN
    assert peaks[1] < 1.1 * peaks[0]


# ---- refusals ----


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(share: float, file: Path) -> None:
    whole = file.read_text()
    file.write_text(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"{file} is no whole JSON file"):
        list(read_items(str(file)))


@pytest.mark.parametrize(
    "text", ["[]", "7", '{"images": [1 2]}', "{1: 2}", '{"a": 1 "b": 2}', '{"a": nul}', '{"a": 1}}', '{"caf\u00e9": 1}']
)
def test_what_is_no_json_object_is_refused(text: str, file: Path) -> None:
    file.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"{file} is no whole JSON file"):
        list(read_items(str(file)))


def test_a_list_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text('{"images": [1], "annotations": [2], "images": [3]}')
    with pytest.raises(ValueError, match='"images" comes twice'):
        rewrite(str(path), str(path), {})


def test_a_missing_file_is_refused_with_the_way_out() -> None:
    with pytest.raises(FileNotFoundError, match=r"no annotation file nowhere.json.*tools/doctor.py"):
        list(read_items("nowhere.json"))


def test_items_say_whether_they_are_elements_of_a_list(file: Path) -> None:
    items = list(read_items(str(file)))
    assert items[0] == Item("info", CONTENT["info"], in_list=False)
    assert items[1] == Item("images", CONTENT["images"][0], in_list=True)
