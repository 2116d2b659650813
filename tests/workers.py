"""Two worker processes joined by gloo, for tests of what several GPUs would do. They live as long as the session."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
import torch.distributed as dist

NUM_WORKERS = 2
TIMEOUT = 600  # seconds; importing everything takes most of it, on a busy machine minutes


def join(rank: int, meeting_point: str) -> None:
    """Start a worker: make Detectron2 importable, meet the other, end with the tests even if they are killed."""
    import dk_detr  # noqa: F401

    threading.Thread(target=end_with_the_tests, daemon=True).start()
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting_point}", rank=rank, world_size=NUM_WORKERS)


def end_with_the_tests() -> None:
    """Wait for the tests' process to end, and then do not wait for jobs that nobody will send."""
    tests = multiprocessing.parent_process()
    assert tests is not None
    tests.join()
    os._exit(1)


@pytest.fixture(scope="session")
def in_two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., list[Any]]]:
    """Call `in_two_workers(job, *arguments)`: both workers do `job(rank, *arguments)`, a function of a test module.

    Returns: both results, in the order of the workers.
    """
    meeting_point = str(tmp_path_factory.mktemp("workers") / "meeting_point")
    # One server imports everything once and forks both workers; the tests' own process may hold threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dk_detr"])
    pools = [ProcessPoolExecutor(1, context, join, (rank, meeting_point)) for rank in range(NUM_WORKERS)]

    def run(job: Callable[..., Any], *arguments: Any) -> list[Any]:
        futures = [pool.submit(job, rank, *arguments) for rank, pool in enumerate(pools)]
        return [future.result(timeout=TIMEOUT) for future in futures]

    yield run
    for pool in pools:
        pool.shutdown(cancel_futures=True)
