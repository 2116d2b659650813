"""Names that a text encoder cannot read as meant are refused by name, whichever way they come in."""

import logging
from pathlib import Path

import pytest
import torch

from dk_detr.engine import one_clear_error
from dk_detr.language import COCO_NAMES, LVIS_NAMES, WORD_LISTS, Clip, build_vocabulary, load_clip
from dk_detr.language.words import refuse_unreadable
from dk_detr.structures import Vocabulary, require_words
from tests.model_fixtures import tiny_detector
from tests.run_fixtures import CLIP, write_json

NO_WORDS = [".", "???", "-_-", "()", "…", "\u200b", "+"]
CONTROLLED = ["red\x00star", "red\nstar", "\x7f"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    """Reads 32 tokens."""
    return load_clip(architecture=write_json(tmp_path_factory.mktemp("clip") / "tiny.json", CLIP), weights="")


@pytest.mark.parametrize("name", NO_WORDS)
def test_what_is_no_word_is_refused_by_name(name: str, clip: Clip) -> None:
    with pytest.raises(ValueError, match="is no word: it has no letter and no digit"):
        build_vocabulary(["cat", name], clip, "name")
    with pytest.raises(ValueError, match="is no word"):
        tiny_detector().set_vocabulary(named("cat", name))


@pytest.mark.parametrize("name", CONTROLLED)
def test_control_characters_are_refused_by_name(name: str, clip: Clip) -> None:
    with pytest.raises(ValueError, match="holds a control character") as error:
        build_vocabulary(["cat", name], clip, "name")
    assert repr(name) in str(error.value)


def test_a_blank_name_is_no_name_of_any_vocabulary() -> None:
    for blank in ("", "  ", "\t"):
        with pytest.raises(ValueError, match="number 2 of 2 is blank"):
            named("cat", blank)


def test_words_of_any_script_digits_and_pictographs_are_words() -> None:
    require_words(["7", "猫", "кошка", "🐱", "C++", "nut, bolt", "Hello!", "می‌خواهم"])


@pytest.mark.parametrize(
    "pair", [("Paper_Cup", "paper cup"), ("red star", "red  star"), ("cat", "Cat."), ("a/b", "a or b")]
)
def test_two_names_of_the_same_tokens_are_refused_with_both(pair: tuple[str, str], clip: Clip) -> None:
    with pytest.raises(ValueError, match="are the same to the text encoder") as error:
        build_vocabulary(["dog", *pair], clip, "single")
    assert all(f'"{name}"' in str(error.value) for name in pair)


def test_two_spellings_with_one_embedding_are_refused_wherever_they_come_from() -> None:
    rows = torch.eye(4)[[0, 1, 1]]
    with pytest.raises(ValueError, match='"Paper_Cup" and "paper cup" have one embedding'):
        Vocabulary(("dog", "Paper_Cup", "paper cup"), rows, torch.zeros(3, dtype=torch.bool))
    assert named("dog", "Paper_Cup", "paper cup")


@pytest.mark.parametrize("prompt", ["name", "single", "vild"])
def test_a_name_that_is_cut_is_refused_by_name(prompt: str, clip: Clip) -> None:
    long = " ".join(["word"] * 40)
    with pytest.raises(ValueError, match=f'"{long} one" is too long: the text encoder reads 32 tokens'):
        build_vocabulary(["cat", f"{long} one", f"{long} two"], clip, prompt)


def test_exactly_as_many_tokens_as_are_read_are_not_too_many(clip: Clip) -> None:
    refuse_unreadable([" ".join(["word"] * 30)], clip, "name")
    with pytest.raises(ValueError, match="too long"):
        refuse_unreadable([" ".join(["word"] * 31)], clip, "name")


def test_of_a_sentence_that_is_cut_behind_the_name_only_the_log_tells(
    clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        refuse_unreadable([" ".join(["word"] * 20)], clip, "vild")
    assert "does not see the end of" in caplog.text and "of 63 sentences" in caplog.text


@pytest.mark.parametrize("names", [LVIS_NAMES, COCO_NAMES, WORD_LISTS["voc"][0]], ids=["lvis", "coco", "voc"])
def test_the_names_of_the_benchmarks_are_read_as_they_are(names: tuple[str, ...], clip: Clip) -> None:
    refuse_unreadable(names, clip, "name")


def named(*names: str) -> Vocabulary:
    """With embeddings of their own."""
    return Vocabulary(names, torch.eye(16)[: len(names)], torch.zeros(len(names), dtype=torch.bool))


def test_a_user_is_told_which_file_is_missing_and_where_relative_paths_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    missing = {
        "x.json": lambda: load_clip(architecture="x.json"),
        "x.pt": lambda: load_clip("clip", "ViT-B/32", "x.pt"),
    }
    for name, read in missing.items():
        with pytest.raises(SystemExit), one_clear_error():
            read()
        said = capsys.readouterr().err
        assert f" {name} (MODEL.CLIP." in said and said.endswith(f"Relative paths start at {tmp_path}.\n")
