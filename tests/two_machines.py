"""Two "machines" on the loopback, for tests: processes that start workers of their own, as machines do.

They are forked from a process that has imported everything, and so are their workers: an import takes longer than
what is tested.
"""

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

TIMEOUT = 300  # seconds; most of it for a busy machine


@dataclass(frozen=True)
class Ended:
    """What became of a machine: its exit status, and what it wrote to the terminal."""

    code: int | None
    terminal: str

    @property
    def errors(self) -> list[str]:
        """The lines that begin with "error: "."""
        return [line for line in self.terminal.splitlines() if line.startswith("error: ")]


def free_port() -> int:
    """A port of the loopback that is free now."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def on_machines(job: Callable[..., None], folder: Path, *arguments: tuple[Any, ...]) -> list[Ended]:
    """Do `job(*arguments[i])` on machine i, all at the same time.

    Args:
        job: a function of a test module. folder: for what the machines write to their terminals.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dk_detr", "tests.preloaded"])
    logs = [folder / f"terminal_{number}.txt" for number in range(len(arguments))]
    machines = [context.Process(target=_as_machine, args=(log, job, own)) for log, own in zip(logs, arguments)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join(TIMEOUT)
        machine.kill()
        machine.join()
    return [Ended(machine.exitcode, log.read_text()) for machine, log in zip(machines, logs)]


def _as_machine(log: Path, job: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    import dk_detr  # noqa: F401

    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    forked = partial(torch.multiprocessing.start_processes, start_method="fork")
    with patch.object(torch.multiprocessing, "spawn", forked):
        job(*arguments)
