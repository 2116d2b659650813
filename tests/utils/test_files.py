"""Reading lists in portions: the same elements as in one piece, and the same errors."""

import json
from pathlib import Path

import pytest

from dk_detr.utils import read_json, read_json_list

ROWS = [{"number": i, "box": [1, 2.5], "mask": {"size": [2, 3], "counts": 'a"{'}} for i in range(40)]


def read(path: Path, chunk: int) -> list:
    return list(read_json_list(str(path), "file", "files are lists", chunk))


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000, 1 << 20])
@pytest.mark.parametrize(
    "text", [json.dumps(ROWS), json.dumps(ROWS, indent=2), f"\ufeff \n{json.dumps(ROWS)}", " [ ] "]
)
def test_portions_hold_together_what_the_list_holds(tmp_path, text, chunk):
    (tmp_path / "list.json").write_text(text)
    portions = read(tmp_path / "list.json", chunk)
    assert [row for portion in portions for row in portion] == read_json(str(tmp_path / "list.json"), "file")
    assert len(portions) == 1 or chunk < len(text)


def test_a_long_list_comes_in_several_portions(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    sizes = [len(portion) for portion in read(tmp_path / "list.json", 500)]
    assert len(sizes) > 4 and max(sizes) < 20


@pytest.mark.parametrize(
    "rows", [[1, "a", [2]], [{"a": [{"b": 1}, {"b": 2}]}] * 9, [{"a": "}, {"}] * 9, [{"a": 1}, 2, {"b": "}"}]]
)
def test_a_list_that_cannot_be_cut_is_read_whole(tmp_path, rows):
    (tmp_path / "list.json").write_text(json.dumps(rows))
    for chunk in (1, 10, 40):
        assert [row for portion in read(tmp_path / "list.json", chunk) for row in portion] == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(ROWS)[:-1], "no whole JSON file"),
        (json.dumps(ROWS)[:-30], "no whole JSON file"),
        (json.dumps(ROWS) + "]", "no whole JSON file"),
        (json.dumps(ROWS).replace('}}, {"number": 9', '}}], {"number": 9'), "no whole JSON file"),
        (json.dumps(ROWS).replace('}}, {"number": 9', '}} {"number": 9'), "no whole JSON file"),
        ("", "no whole JSON file"),
        ('{"a": 1}', "holds a dict; files are lists"),
    ],
)
def test_a_broken_file_is_refused_wherever_it_is_cut(tmp_path, text, message):
    (tmp_path / "list.json").write_text(text)
    for chunk in (20, 500, 1 << 20):
        with pytest.raises(ValueError, match=message):
            read(tmp_path / "list.json", chunk)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file .*absent.json"):
        read(tmp_path / "absent.json", 10)
