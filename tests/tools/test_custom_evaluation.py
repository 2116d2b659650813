"""Evaluating a run on annotation files of one's own: with its words, without its training file, and beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dk_detr.engine.run_folder import read_results
from dk_detr.language import load_vocabulary
from tests.run_fixtures import NAMES
from tests.tools.test_custom_data import TOOL, change, loads, mine, train  # noqa: F401  fixtures

WORDS = "run/custom_vocabulary.npz"
ELSEWHERE = "run/evaluation/custom_vocabulary.npz"


@pytest.fixture
def run(train: Callable[..., int]) -> Path:  # noqa: F811
    """A run whose training file has gone since."""
    assert train("--evaluate", novel="blue_box") == 0
    Path("my_data/train.json").unlink()
    return Path("run")


@pytest.fixture
def evaluate(run: Path, run_tool: Callable[..., int]) -> Callable[..., int]:
    """By the config of the run, and options; returns the exit status."""

    def call(*options: str) -> int:
        weights = ("MODEL.WEIGHTS", "run/model_final.pth")
        return run_tool(TOOL, "--config-file", "run/config.yaml", "--eval-only", *options, *weights)

    return call


def results_in(folder: str) -> str:
    """As text, for which nan is nan."""
    return str((read_results(folder) or {})["results"])


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file() and path.name != "log.txt"}


def test_evaluation_needs_no_training_file_and_leaves_the_run_as_it_is(run: Path, evaluate: Callable[..., int]) -> None:
    before, results = contents(run), read_results("run")
    assert evaluate() == 0
    assert contents(run) == before and loads() == 1
    assert results_in("run/evaluation") == str((results or {})["results"])


def test_in_another_folder_the_words_are_those_beside_the_weights(run: Path, evaluate: Callable[..., int]) -> None:
    assert evaluate("OUTPUT_DIR", "elsewhere") == 0
    assert results_in("elsewhere") == results_in("run")
    assert not Path("elsewhere/custom_vocabulary.npz").exists()


def test_words_that_the_run_did_not_know_are_written_beside_it(run: Path, evaluate: Callable[..., int]) -> None:
    change("my_data/val.json", lambda content: content["categories"].append({"id": 9, "name": "cat"}))
    before = contents(run)
    assert evaluate() == 0
    assert contents(run) == before
    words = load_vocabulary(ELSEWHERE)
    assert words.names == (*NAMES, "cat") and words.novel_names == ("blue_box", "cat")


def test_fewer_words_than_the_run_knows_need_no_others(run: Path, evaluate: Callable[..., int]) -> None:
    def forget_blue(content: dict[str, list[dict[str, int]]]) -> None:
        content["annotations"] = [box for box in content["annotations"] if box["category_id"] != 3]
        content["categories"] = content["categories"][:2]

    change("my_data/val.json", forget_blue)
    assert evaluate() == 0
    assert not Path(ELSEWHERE).exists()


def test_other_novel_names_than_the_run_had_are_refused(
    run: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("--novel", "red_box") == 1
    assert '"red_box" (--novel, DATASETS.CUSTOM.NOVEL), but the run' in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_words(
    train: Callable[..., int],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(novel="blue_box") == 0
    before = contents(Path("run"))
    assert train("--resume", novel="red_box", SOLVER__MAX_ITER=2) == 1
    assert "The run in run was begun with other words (3 names, 1 novel" in capsys.readouterr().err
    assert contents(Path("run")) == before
    assert train("--resume", novel="blue_box", SOLVER__MAX_ITER=2) == 0


def test_resuming_a_finished_run_leaves_its_words_as_they_are(run: Path, run_tool: Callable[..., int]) -> None:
    before = contents(run)
    assert run_tool(TOOL, "--config-file", "run/config.yaml", "--resume", "--novel", "red_box") == 0
    assert contents(run) == before
