"""Names on the command line: with commas in them, from a file, and none of them."""

import runpy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dk_detr.commands.custom_data_options import as_opts
from dk_detr.engine import setup_cfg
from dk_detr.engine.custom_vocabulary import CustomFile, novel_of
from dk_detr.utils.names import NAMES_HELP, novel_names, split_names, typed_names
from tests.run_fixtures import MINI, REPOSITORY


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("cup", ["cup"]),
        (" cup , red jar,", ["cup", "red jar"]),
        ('"nut, bolt",cup', ["nut, bolt", "cup"]),
        ('cup, "nut, bolt" ', ["cup", "nut, bolt"]),
        ('cup, "nut, bolt" , jar', ["cup", "nut, bolt", "jar"]),
        ('12" pipe,cup', ['12" pipe', "cup"]),
        ('"a ""big"" cup",jar', ['a "big" cup', "jar"]),
        ("cup\njar", ["cup", "jar"]),
        ('"@home",7', ["@home", "7"]),
    ],
)
def test_names_are_between_commas_and_a_comma_between_quotes_is_none(text: str, names: list[str]) -> None:
    assert split_names(text) == names


def test_what_is_typed_into_a_page_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("password")
    assert typed_names(f"cat,@{tmp_path / 'secret.txt'}") == ["cat", f"@{tmp_path / 'secret.txt'}"]
    assert typed_names(" , \n") == []
    with pytest.raises(ValueError, match="is no list of names") as refused:
        typed_names('"cat')
    assert "@FILE" not in str(refused.value)


def test_names_may_be_the_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_bytes('\ufeffnut, bolt\r\n\n  "red" cup \nöse\n'.encode())
    assert split_names(f"@{file}") == ["nut, bolt", '"red" cup', "öse"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" , ", "holds no names"),
        ('cup,"nut', "is no list of names"),
        ('"nut"bolt,cup', "is no list of names"),
        ("@nowhere.txt", r"no file of names nowhere\.txt"),
    ],
)
def test_what_names_nothing_is_refused(text: str, said: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        split_names(text)


def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "names.bin").write_bytes(b"\xff\xfe\x00c")
    with pytest.raises(ValueError, match=r"names\.bin is no text file"):
        split_names(f"@{tmp_path}/names.bin")


def test_an_empty_list_of_novel_names_says_none_and_no_list_says_nothing() -> None:
    assert novel_names("") == novel_names(" ") == novel_names([]) == novel_names(()) == []
    assert novel_names(None) is None
    assert novel_names('"nut, bolt"') == novel_names(["nut, bolt"]) == ["nut, bolt"]


def test_the_help_of_every_tool_says_how(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    commands = {"demo": [], "score": [], "build_vocabulary": [], "train_net": [], "prepare_dataset": ["custom"]}
    for tool, more in commands.items():
        monkeypatch.setattr(sys, "argv", [tool, *more, "--help"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(REPOSITORY / "tools" / f"{tool}.py"), run_name="__main__")
        assert " ".join(NAMES_HELP.split()) in " ".join(capsys.readouterr().out.split()), tool


# ---- DATASETS.CUSTOM.NOVEL ----

HALF = CustomFile("train.json", "images", ("cup", "jar"), "coco", frozenset({"cup"}), ())
WHOLE = replace(HALF, with_boxes=frozenset({"cup", "jar"}))


def test_of_own_data_none_and_nothing_are_told_apart() -> None:
    assert novel_of(None, HALF, None) is None and novel_of([], HALF, None) == []
    assert novel_of("jar", HALF, None) == novel_of(["jar"], HALF, None) == ["jar"]


def test_the_default_of_older_configs_is_refused_only_where_it_would_mean_something_else() -> None:
    with pytest.raises(ValueError, match=r'NOVEL is "", .*"jar".* null for that, \[\] for none'):
        novel_of("", HALF, None)
    assert novel_of("", WHOLE, None) == []


@pytest.mark.parametrize(("given", "wanted"), [("", []), ('"nut, bolt"', '"nut, bolt"'), (None, None)])
def test_the_option_says_none_as_the_config_does(given: str | None, wanted: Any) -> None:
    assert setup_cfg(MINI, as_opts({"TRAIN_JSON": None, "NOVEL": given})).DATASETS.CUSTOM.NOVEL == wanted
