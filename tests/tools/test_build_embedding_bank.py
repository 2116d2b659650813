"""tools/build_embedding_bank.py from its command line: alone, and as two processes under torchrun."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands.build_embedding_bank.building import PER_SHARD, REGIONS, BankWorld, contents, make_bank_world
from tests.run_fixtures import MINI, REPOSITORY

TOOL = str(REPOSITORY / "tools" / "build_embedding_bank.py")


@pytest.fixture(scope="module")
def bank_world(tmp_path_factory: pytest.TempPathFactory) -> BankWorld:
    """Where banks can be built."""
    return make_bank_world(tmp_path_factory.mktemp("bank_world"))


def arguments(bank_world: BankWorld, output: Path, *more: str) -> list[str]:
    numbers = ("--regions", str(REGIONS), "--images-per-shard", str(PER_SHARD))
    return ["--config-file", MINI, "--output", str(output), *numbers, *more, *bank_world.options()]


def test_two_processes_under_torchrun_make_the_bank_of_one(
    bank_world: BankWorld, run_tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bank_world.in_use():
        assert run_tool("build_embedding_bank.py", *arguments(bank_world, tmp_path / "one")) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path}/one is finished: 8 images" in said and f"MODEL.TEACHER.BANK {tmp_path}/one" in said
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    root = bank_world.world.root
    environment = {**os.environ, "DETECTRON2_DATASETS": str(root), "PYTHONPATH": str(REPOSITORY)}
    command = [*torchrun, TOOL, *arguments(bank_world, tmp_path / "two")]
    answer = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_two_machines_one_after_the_other_make_the_bank_of_one(
    bank_world: BankWorld, run_tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bank_world.in_use():
        assert run_tool("build_embedding_bank.py", *arguments(bank_world, tmp_path / "one")) == 0
        for rank in ("1", "0"):
            machine = ["--num-machines", "2", "--machine-rank", rank]
            assert run_tool("build_embedding_bank.py", *arguments(bank_world, tmp_path / "two", *machine)) == 0
    assert "Process 2 of 2 is done. 2 of 3 shards are missing" in capsys.readouterr().out
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_defaults_are_those_of_vild(
    bank_world: BankWorld, run_tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with bank_world.in_use():
        options = ["--config-file", MINI, "--output", tmp_path / "bank", "--estimate", *bank_world.options()]
        assert run_tool("build_embedding_bank.py", *options) == 0
    assert "8 images, at most 300 regions each, in 1 shards" in capsys.readouterr().out


def test_an_error_is_one_line_and_exit_status_1(
    run_tool: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_tool("build_embedding_bank.py", "--config-file", "nowhere.yaml", "--output", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: There is no config file nowhere.yaml (--config-file). ") and error.count("\n") == 1
