"""tools/build_vocabulary.py: words with their embeddings, from what a user has, built once."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dk_detr.language import COCO_NAMES, load_clip, load_vocabulary, prompt_texts
from tests.run_fixtures import CLIP, FREQUENCIES, NAMES, REPOSITORY, WIDTH, annotations_of, write_json

TOOL = str(REPOSITORY / "tools" / "build_vocabulary.py")


class Tool:
    """The tool with a tiny CLIP, in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys, self.output = monkeypatch, capsys, folder / "below" / "words.npz"
        self.clip = ["--architecture", write_json(folder / "tiny.json", CLIP), "--weights", str(folder / "clip.pt")]

    def __call__(self, *arguments: Any) -> str:
        """What it prints."""
        words = [str(argument) for argument in (*arguments, "--output", self.output, *self.clip)]
        self.monkeypatch.setattr(sys, "argv", [TOOL, *words])
        runpy.run_path(TOOL, run_name="__main__")
        return self.capsys.readouterr().out

    def error(self, *arguments: Any) -> str:
        """What it says before it ends with exit status 1."""
        with pytest.raises(SystemExit) as end:
            self(*arguments)
        assert end.value.code == 1
        said = self.capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    made = Tool(tmp_path, monkeypatch, capsys)
    torch.save(load_clip(architecture=made.clip[1], weights="").model.state_dict(), tmp_path / "clip.pt")
    return made


@pytest.fixture
def annotations(tmp_path: Path) -> str:
    """Categories in no order."""
    content = annotations_of([])
    content["categories"].reverse()
    return write_json(tmp_path / "annotations.json", content)


def test_the_categories_of_an_annotation_file_with_the_rare_ones_novel(tool: Tool, annotations: str) -> None:
    assert FREQUENCIES == ("f", "c", "r")
    said = tool("--annotations", annotations)
    vocabulary = load_vocabulary(str(tool.output))
    assert vocabulary.names == NAMES and vocabulary.novel_names == NAMES[2:]
    assert said.startswith(f"{tool.output}: 3 names, 1 novel, width {WIDTH}")


def test_the_novel_ones_may_be_named(tool: Tool, annotations: str) -> None:
    tool("--annotations", annotations, "--novel", "red_box, green_box")
    assert load_vocabulary(str(tool.output)).novel_names == NAMES[:2]


def test_a_list_of_categories_will_do(tool: Tool, tmp_path: Path) -> None:
    categories = [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat", "frequency": "r"}]
    tool("--annotations", write_json(tmp_path / "categories.json", categories))
    vocabulary = load_vocabulary(str(tool.output))
    assert (vocabulary.names, vocabulary.novel_names) == (("cat", "dog"), ("cat",))


def test_any_words_none_of_them_novel(tool: Tool) -> None:
    tool("--names", "cat, dog,traffic light,")
    vocabulary = load_vocabulary(str(tool.output))
    assert (vocabulary.names, vocabulary.novel_names) == (("cat", "dog", "traffic light"), ())


@pytest.mark.parametrize("prompt", ["name", "single", "vild"])
def test_words_are_read_in_the_prompt_that_was_asked_for(prompt: str, tool: Tool) -> None:
    tool("--names", "cat", "--prompt", prompt)
    clip = load_clip(architecture=tool.clip[1], weights=tool.clip[3])
    mean = clip.encode_text(prompt_texts("cat", prompt)).mean(0)
    vocabulary = load_vocabulary(str(tool.output))
    assert torch.allclose(vocabulary.embeddings[0], mean / mean.norm(), atol=1e-5)
    assert vocabulary.provenance["prompt"] == prompt


def test_embeddings_of_others_with_the_names_of_an_annotation_file(
    tool: Tool, annotations: str, tmp_path: Path
) -> None:
    rows = np.arange(1, 13, dtype=np.float16).reshape(3, 4)
    np.save(tmp_path / "rows.npy", rows)
    tool("--annotations", annotations, "--embeddings", tmp_path / "rows.npy")
    vocabulary = load_vocabulary(str(tool.output))
    unit = rows.astype(np.float32) / np.linalg.norm(rows.astype(np.float32), axis=1, keepdims=True)
    assert np.allclose(vocabulary.embeddings.numpy(), unit, atol=1e-6)
    assert (vocabulary.names, vocabulary.novel_names) == (NAMES, NAMES[2:])


def test_of_a_whole_benchmarks_embeddings_those_of_the_names_are_taken(tool: Tool, tmp_path: Path) -> None:
    np.save(tmp_path / "coco.npy", np.eye(80, dtype=np.float32))
    tool("--names", "dog,person", "--novel", "dog", "--embeddings", tmp_path / "coco.npy")
    vocabulary = load_vocabulary(str(tool.output))
    assert vocabulary.embeddings.argmax(1).tolist() == [COCO_NAMES.index("dog"), COCO_NAMES.index("person")]
    assert vocabulary.novel_names == ("dog",)


def test_a_name_may_hold_a_comma_and_names_may_be_in_a_file(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("nut, bolt\ncup\n")
    for names in ('"nut, bolt",cup', f"@{tmp_path}/names.txt"):
        tool("--names", names, "--novel", '"nut, bolt"')
        vocabulary = load_vocabulary(str(tool.output))
        assert (vocabulary.names, vocabulary.novel_names) == (("nut, bolt", "cup"), ("nut, bolt",))


def test_no_name_is_novel_where_the_list_is_empty(tool: Tool, annotations: str) -> None:
    tool("--annotations", annotations, "--novel", "")
    assert load_vocabulary(str(tool.output)).novel_names == ()


# ---- built once ----


def never(*args: Any) -> None:
    pytest.fail("the text encoder was loaded again")


def test_what_is_there_is_not_built_again(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    tool("--names", "cat,dog")
    before = tool.output.stat().st_mtime_ns
    monkeypatch.setattr("dk_detr.language.vocabulary_file.load_clip", never)
    assert "is there already: 2 names" in tool("--names", "cat,dog")
    assert tool.output.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    [
        lambda tool: ("--names", "cat,dog,yak"),
        lambda tool: ("--names", "cat,dog", "--prompt", "name"),
        lambda tool: ("--names", "cat,dog", "--novel", "cat"),
        lambda tool: rewrite(tool.clip[3], "cat,dog"),
    ],
    ids=["other words", "another prompt", "other novel words", "other weights"],
)
def test_what_is_asked_for_otherwise_is_built_again(change: Callable[[Tool], tuple[str, ...]], tool: Tool) -> None:
    tool("--names", "cat,dog")
    assert "is there already" not in tool(*change(tool))


def rewrite(weights: str, names: str) -> tuple[str, ...]:
    """Other weights in the same place."""
    state = torch.load(weights)
    torch.save({key: value + 1 if value.is_floating_point() else value for key, value in state.items()}, weights)
    Path(weights).touch()
    return ("--names", names)


def test_a_file_that_is_not_whole_is_built_again(tool: Tool) -> None:
    tool("--names", "cat,dog")
    tool.output.write_bytes(tool.output.read_bytes()[:100])
    tool("--names", "cat,dog")
    assert load_vocabulary(str(tool.output)).names == ("cat", "dog")


# ---- refusals ----


def test_no_names_are_refused(tool: Tool) -> None:
    assert '" , " holds no names' in tool.error("--names", " , ")


def test_repeated_names_are_refused_by_name(tool: Tool) -> None:
    assert 'repeated: "cat"' in tool.error("--names", "cat,dog,cat")


@pytest.mark.parametrize("names", ["Paper_Cup,paper cup", "red star,red  star"])
def test_two_spellings_of_one_word_are_refused(names: str, tool: Tool) -> None:
    assert "are the same to the text encoder" in tool.error("--names", names)
    assert not tool.output.exists()


@pytest.mark.parametrize("name", [".", "???"])
def test_what_is_no_word_is_refused_by_name(name: str, tool: Tool) -> None:
    assert f'The name "{name}" is no word' in tool.error("--names", f"cat,{name}")


def test_a_novel_name_that_is_no_name_is_refused(tool: Tool) -> None:
    assert 'the first unknown is "yak"' in tool.error("--names", "cat,dog", "--novel", "yak")


def test_a_missing_annotation_file_is_named(tool: Tool) -> None:
    assert "no annotation file nowhere.json" in tool.error("--annotations", "nowhere.json")


@pytest.mark.parametrize("content", ['{"images": []}', "[]", "[1, 2", '{"categories": [{"id": 1}]}'])
def test_a_file_without_categories_is_named(content: str, tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(content)
    assert "other.json" in tool.error("--annotations", tmp_path / "other.json")


def test_embeddings_that_do_not_fit_the_names_are_named_with_both_numbers(tool: Tool, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.ones((4, WIDTH)))
    message = tool.error("--names", "cat,dog", "--embeddings", tmp_path / "rows.npy")
    assert "rows.npy has 4 rows, but there are 2 names" in message
    assert not tool.output.exists()


def test_embeddings_that_are_not_there_are_missed_by_their_option(tool: Tool) -> None:
    error = tool.error("--names", "cat", "--embeddings", "nowhere.npy")
    assert "no vocabulary nowhere.npy (--embeddings). Make it" in error
    assert error.rstrip().endswith(f"Relative paths start at {Path.cwd()}.")


def test_either_annotations_or_names_must_be_given(tool: Tool) -> None:
    with pytest.raises(SystemExit) as end:
        tool()
    assert end.value.code == 2


def test_what_was_asked_for_is_kept_with_the_words(tool: Tool) -> None:
    tool("--names", "cat")
    assert json.loads(load_vocabulary(str(tool.output)).provenance["request"])[0] == ["cat"]
