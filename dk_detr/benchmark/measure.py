"""Time and memory of a few ways to do the same thing, each in a process of its own."""

import ctypes
import gc
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn
from tqdm import tqdm

FLUSHED_BYTES = 2**30
Work = Callable[[], object]
Way = Callable[[], Work]  # makes the work; it travels to another process, so it is a function of a module or a partial


def training_step(model: nn.Module, loss: Callable[[], Any]) -> Work:
    """Forward, which is `loss`, backward and AdamW."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-6, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return run


@dataclass(frozen=True)
class Measurement:
    """What one way cost.

    Attributes:
        seconds: of each round. peak_bytes: memory at its highest above what was held before; None where the system
            does not tell.
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def side_by_side(ways: Mapping[str, Way], rounds: int, device: str, title: str = "") -> dict[str, Measurement]:
    """Time each way `rounds` times, in alternation, so that whatever disturbs the machine disturbs all of them.

    A process of its own for each, so that none finds the memory warmed, or scattered, by another. Each works three
    times before it is timed; the second time tells its peak memory.
    """
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_Worker(name, way, device)) for name, way in ways.items()}
        peaks = {name: worker.ask() for name, worker in workers.items()}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in tqdm(range(rounds), desc=title or "rounds", leave=False):
            for name, worker in workers.items():
                seconds[name].append(worker.ask())
    return {name: Measurement(tuple(seconds[name]), peaks[name]) for name in ways}


def in_turn(ways: Mapping[str, Work], device: str, seconds: float, most: int = 50) -> dict[str, Measurement]:
    """Time works of this process in alternation for about `seconds`, at most so many times each.

    For a GPU, where memory is not shared with others. Each works three times before it is timed. Peaks are not told.
    """
    for work in ways.values():
        for _ in range(3):
            work()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + seconds
    for number in range(most):
        for name, work in ways.items():
            taken[name].append(_time(work, device))
        if time.perf_counter() > end and number >= 2:
            break
    return {name: Measurement(tuple(each), None) for name, each in taken.items()}


def kernel_seconds(work: Work, device: str, rounds: int = 30) -> float:
    """Median time that a GPU takes for work of microseconds: nothing of it is in its caches, and the host is ahead.

    Between two rounds a large tensor is cleared, which takes longer than the host needs to start the next one.
    """
    if device != "cuda":
        return statistics.median(_time(work, device) for _ in range(3))
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.uint8, device=device)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for _ in range(3):
        work()
    for start, end in marks:
        flushed.zero_()
        start.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1000


class _Worker:
    """A process that works once whenever it is asked. Raises RuntimeError with its words where it fails."""

    def __init__(self, name: str, way: Way, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self.connection, self.theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(self.theirs, way, device, torch.get_num_threads()), daemon=True
        )

    def __enter__(self) -> Self:
        self.process.start()
        self.theirs.close()  # so that we are told when the process is gone
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.join()

    def ask(self) -> Any:
        """Peak memory the first time, then seconds."""
        try:
            self.connection.send(True)
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise RuntimeError(f'The process of "{self.name}" ended with {self.process.exitcode}.') from error
        if isinstance(answer, Exception):
            raise RuntimeError(f'"{self.name}" failed: {answer}')  # noqa: TRY004  it is what the process raised
        return answer


def _serve(connection: Connection, way: Way, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    try:
        work = way()
        work()
        connection.recv()
        peak = peak_memory(work, device)
        work()
        connection.send(peak)
        while connection.recv():
            connection.send(_time(work, device))
    except Exception as error:  # noqa: BLE001  it is told to who asked
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _time(work: Work, device: str) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(work: Work, device: str) -> int | None:
    """Bytes that `work` takes at its peak, beyond what was held before it.

    On a GPU what torch allocates; on Linux the resident memory of the process, everything included; elsewhere None.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    if not _forget_peak():
        return None
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


def _forget_peak() -> bool:
    """Hand freed memory back, and let the system count the peak from here. False where that cannot be done."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError, TypeError):
        return False
    return True


def _resident(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
