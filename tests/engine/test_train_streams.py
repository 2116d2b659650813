"""DATALOADER.TRAIN_STREAM: what a training learns from may be a project's own."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.run_fixtures import World

TOY = "tests.engine.toy_project"
CONFIG = f"""
PROJECTS: ["{TOY}"]
MODEL: {{META_ARCHITECTURE: "ToyPairs"}}
DATALOADER: {{TRAIN_STREAM: "ToyPairs"}}
DATASETS: {{TRAIN: [], TEST: []}}
SOLVER: {{BASE_LR: 0.1, WARMUP_ITERS: 0, BACKBONE_MULTIPLIER: 1.0}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "toy.yaml").write_text(CONFIG)
    return str(tmp_path / "toy.yaml")


def train(config: str, output: Path, **more: Any) -> list[str]:
    """Captions that were learnt from."""
    seen: list[str] = importlib.import_module(TOY).SEEN
    seen.clear()
    World(output).train(output, config=config, SOLVER__IMS_PER_BATCH=2, SEED=3, **more)
    return list(seen)


def test_a_project_trains_from_its_own_stream_without_a_data_set_or_words(config: str, tmp_path: Path) -> None:
    seen = train(config, tmp_path / "run", SOLVER__MAX_ITER=40)
    assert len(seen) == 2 * 40 and set(seen[:8]) == {f"{n}, {'bright' if n % 2 else 'dark'}" for n in range(8)}
    weights = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert weights["bright.weight"].sum() > 1  # it has learnt what "bright" looks like
    assert "ToyPairs: 0.0 M parameters\n" in (tmp_path / "run" / "log.txt").read_text()


def test_a_project_goes_on_with_the_samples_that_would_have_come_next(config: str, tmp_path: Path) -> None:
    whole = train(config, tmp_path / "whole", SOLVER__MAX_ITER=6)
    first = train(config, tmp_path / "halves", SOLVER__MAX_ITER=3)
    assert first + train(config, tmp_path / "halves", SOLVER__MAX_ITER=6, resume=True) == whole


def test_an_unknown_stream_is_refused_with_those_that_are_known(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(config, tmp_path / "run", DATALOADER__TRAIN_STREAM="Pairs")
    said = capsys.readouterr().err
    known = re.search(r'DATALOADER.TRAIN_STREAM is "Pairs"; choose one of (.*)\.', said)
    assert known and {"Detection", "ToyPairs"} <= set(known[1].split(", "))  # and those of projects in use
