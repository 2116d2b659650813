"""Starting one process or several. That they train together is shown in tests/tools/test_train_net.py."""

import argparse
import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from dk_detr.commands.train import main
from dk_detr.engine import one_clear_error
from dk_detr.engine.failures import last_words
from dk_detr.engine.launch import _require_equal_machines, launch
from tests.run_fixtures import MINI, World


def test_one_process_needs_no_others() -> None:
    done: list[tuple[int, str]] = []
    launch(lambda *args: done.append(args), 1, (3, "words"))
    assert done == [(3, "words")]
    assert not torch.distributed.is_initialized()


def test_more_gpus_than_there_are_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match="8 processes were asked for, each with a GPU; this machine has 4"):
        launch(print, 8)


def spawn_that_ends_with(exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*args: Any, **kwargs: Any) -> None:
        raise ProcessExitedException("process 0 terminated", 0, 7, exit_code, "SIGKILL" if exit_code < 0 else None)

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)


def test_an_error_that_a_worker_has_explained_is_not_followed_by_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn_that_ends_with(1, monkeypatch)
    options = World(tmp_path).options(OUTPUT_DIR=tmp_path)
    with pytest.raises(SystemExit) as end:
        main(argparse.Namespace(
            config_file=MINI, num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto", resume=False,
            eval_only=False, opts=options,
        ))  # fmt: skip
    assert end.value.code == 1


def test_a_worker_that_was_killed_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn_that_ends_with(-9, monkeypatch)
    with pytest.raises(ChildProcessError, match="Rank 0 was ended by SIGKILL; the system does so when memory runs"):
        launch(print, 2, device="cpu")


def own_machine_in_a_worker(rank: int, local_sizes: tuple[int, int], backends: tuple[str, str]) -> str:
    with pytest.raises(ValueError) as refused:
        _require_equal_machines(rank, 2, local_sizes[rank], backends[rank])
    return str(refused.value)


def test_machines_of_other_sizes_or_without_gpus_are_refused(in_two_workers: Callable[..., Any]) -> None:
    for error in in_two_workers(own_machine_in_a_worker, (4, 8), ("nccl", "gloo")):
        assert "rank 0 has 4 processes, connected by nccl, that of rank 1 has 8 processes, connected by gloo" in error


# ---- who says what went wrong ----


def fail_in_a_worker(rank: int, call: str, *messages: str) -> str:
    """What a worker writes to its terminal; `call` tells this failure from those of other tests."""
    alone = patch.dict(os.environ, TORCHELASTIC_RESTART_COUNT=call)
    with alone, contextlib.redirect_stderr(io.StringIO()) as terminal, pytest.raises(SystemExit), one_clear_error():
        raise RuntimeError(messages[rank])
    return terminal.getvalue()


@pytest.mark.parametrize("messages", [("no such file", "no such file"), ("no such file", "connection closed by peer")])
def test_of_two_workers_that_fail_one_says_why(in_two_workers: Callable[..., Any], messages: tuple[str, str]) -> None:
    said = in_two_workers(fail_in_a_worker, messages[1], *messages)
    assert sorted(map(bool, said)) == [False, True]
    assert "".join(said).count("error: ") == 1


def test_a_process_alone_is_always_the_first_to_fail_and_under_torchrun_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = ValueError("no such file")
    assert last_words(error, "one") == "one" and last_words(error, "two") == "two"
    agent = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for key, value in (("RUN_ID", "x"), ("USE_AGENT_STORE", "True"), ("RESTART_COUNT", "0")):
        monkeypatch.setenv(f"TORCHELASTIC_{key}", value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(agent.port))
    assert last_words(error, "one") == "one" and last_words(error, "two") is None
