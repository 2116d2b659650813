"""Starting one process or several. That they train together is shown in tests/tools/test_train_net.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing import ProcessExitedException

from dk_detr.engine.launch import launch
from dk_detr.engine.train import main
from tests.run_fixtures import World


def test_one_process_needs_no_others() -> None:
    done: list[tuple[int, str]] = []
    launch(lambda *args: done.append(args), 1, (3, "words"))
    assert done == [(3, "words")]
    assert not torch.distributed.is_initialized()


def test_more_gpus_than_there_are_is_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ValueError, match="--num-gpus 8, but this machine has 4"):
        launch(print, 8)


def spawn_that_ends_with(exit_code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn(*args: Any, **kwargs: Any) -> None:
        raise ProcessExitedException("process 0 terminated", 0, 7, exit_code, "SIGKILL" if exit_code < 0 else None)

    monkeypatch.setattr(torch.multiprocessing, "spawn", spawn)


def test_an_error_that_a_worker_has_explained_is_not_followed_by_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn_that_ends_with(1, monkeypatch)
    arguments = World(tmp_path).arguments(tmp_path)
    arguments.num_gpus = 2
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 1


def test_a_worker_that_was_killed_is_not_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn_that_ends_with(-9, monkeypatch)
    with pytest.raises(ChildProcessError, match="Process 0 was ended by SIGKILL; the system does so when memory runs out"):
        launch(print, 2, device="cpu")
