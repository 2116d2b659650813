"""tools/train_net.py from its command line: alone, as two processes, and under torchrun."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dk_detr.commands import train
from dk_detr.engine.run_folder import read_results
from tests.run_fixtures import MINI, REPOSITORY, World, assert_same_training, own_log_handlers
from tests.tools import every_worker

TOOL = str(REPOSITORY / "tools" / "train_net.py")
ITERATIONS = 2
RUN = {"SOLVER__MAX_ITER": ITERATIONS, "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__WARMUP_ITERS": 0}


def call(world: World, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run the tool in this process."""
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    with world.in_use(), own_log_handlers():
        runpy.run_path(TOOL, run_name="__main__")


def options(world: World, output: Path, **more: object) -> list[str]:
    return world.options(OUTPUT_DIR=output, **{**RUN, **more})




# ---- one process ----


def test_it_trains_goes_on_and_evaluates(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "run"
    call(world, monkeypatch, "--config-file", MINI, *options(world, output, SOLVER__MAX_ITER=1))
    call(world, monkeypatch, "--config-file", MINI, "--resume", *options(world, output))
    results = read_results(str(output))
    assert results is not None and results["iteration"] == ITERATIONS
    weights = str(output / "model_final.pth")
    call(
        world, monkeypatch, "--config-file", MINI, "--eval-only",
        *options(world, tmp_path / "again", MODEL__WEIGHTS=weights),
    )  # fmt: skip
    again = read_results(str(tmp_path / "again"))
    assert again is not None and json.dumps(again["results"]) == json.dumps(results["results"])


def test_an_error_is_one_line_and_exit_status_1(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call(world, monkeypatch, "--config-file", MINI, "MODEL.KD.TERM", "[]", "OUTPUT_DIR", str(tmp_path))
    assert end.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("error: There is no config key MODEL.KD.TERM. Did you mean MODEL.KD.TERMS?")
    assert err.count("\n") == 1


def test_a_config_must_be_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        call(world, monkeypatch)
    assert end.value.code == 2
    assert "--config-file" in capsys.readouterr().err


# ---- several ----


@pytest.fixture(scope="module")
def spawned(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that the tool starts itself; relations are distilled over both."""
    output = tmp_path_factory.mktemp("spawned") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(train, "train_or_evaluate", every_worker.train_and_save)
        call(world, monkeypatch, "--config-file", MINI, "--num-gpus", "2", *options(world, output))
    return output


def assert_workers_agree(output: Path) -> None:
    """Both hold the same weights, which are those of the checkpoint."""
    first, second = (torch.load(output / f"worker_{rank}.pth") for rank in (0, 1))
    saved = torch.load(output / "model_final.pth")["model"]
    assert first.keys() == second.keys() == saved.keys()
    assert not [key for key in saved if not torch.equal(first[key], second[key])]
    assert not [key for key in saved if not torch.equal(first[key], saved[key])]


def test_two_processes_end_with_the_same_weights(spawned: Path) -> None:
    assert_workers_agree(spawned)
    assert "2 process(es) on cpu" in (spawned / "log.txt").read_text()


def test_two_processes_distil_and_log_every_loss(spawned: Path) -> None:
    metrics: dict[str, float] = {}
    for line in (spawned / "metrics.json").read_text().splitlines():
        metrics |= json.loads(line)
    assert metrics["loss_kd_relational_batch"] > 0 and metrics["loss_kd_relational_image"] > 0


def test_two_processes_evaluate_as_one_does(spawned: Path, world: World, tmp_path: Path) -> None:
    world.train(tmp_path, eval_only=True, MODEL__WEIGHTS=spawned / "model_final.pth")
    alone, together = read_results(str(tmp_path)), read_results(str(spawned))
    assert alone and together and json.dumps(alone["results"]) == json.dumps(together["results"])


def test_under_torchrun_a_run_of_two_processes_resumes_to_the_same_weights(
    spawned: Path, world: World, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    output.mkdir()
    (output / "model_0000000.pth").write_bytes((spawned / "model_0000000.pth").read_bytes())
    (output / "last_checkpoint").write_text("model_0000000.pth")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*torchrun, every_worker.__file__, "--config-file", MINI, "--resume", *options(world, output)]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(world.root), "PYTHONPATH": str(REPOSITORY)}
    answer = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert_workers_agree(output)
    assert_same_training(output / "model_final.pth", spawned / "model_final.pth")
