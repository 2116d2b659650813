"""Jobs at work: several at a time, each in a process of its own."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from dk_detr.commands.compare_runs.runs import Job

LOG = "train.txt"
LAST_LINES = 5  # of a failed job's log that its error shows


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_parallel(num_runs: int) -> int:
    """One run on each core; on a GPU one."""
    return 1 if torch.cuda.is_available() else min(cores(), num_runs)


def threads_each(parallel: int) -> int:
    """An equal share of the cores, and no more than OMP_NUM_THREADS where that is set."""
    share, wanted = max(1, cores() // parallel), os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(wanted)) if wanted.isdecimal() and int(wanted) else share


def work(jobs: Sequence[Job], train_net: Path, parallel: int, what: str, unit: str) -> None:
    """Do those that are not done, `parallel` at a time.

    Args:
        what, unit: of the progress bar: "training", "it".

    Raises: ValueError for a job that fails, with the end of its log; the others are stopped, and can go on.
    """
    waiting = [job for job in jobs if not job.is_done]
    if not waiting:
        return
    queue, total = list(waiting), sum(job.units for job in waiting)
    with tqdm(total=total, desc=what, unit=unit) as bar, _stopped_in_the_end() as at_work:
        while queue or at_work:
            while queue and len(at_work) < parallel:
                job = queue.pop(0)
                at_work[job] = _start(job, train_net, threads_each(parallel))
            bar.n = sum(job.units_done for job in waiting)
            bar.set_postfix_str("; ".join(job.title for job in at_work))
            time.sleep(0.5)
            for job in [job for job, process in at_work.items() if process.poll() is not None]:
                _check(job, at_work.pop(job).returncode)
        bar.n = total


@contextmanager
def _stopped_in_the_end() -> Iterator[dict[Job, "subprocess.Popen[bytes]"]]:
    """Yields a dict for jobs at work. What it holds when the block ends, also by Ctrl-C or SIGTERM, is stopped."""
    at_work: dict[Job, subprocess.Popen[bytes]] = {}
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield at_work
    finally:
        for process in at_work.values():
            process.terminate()
        for process in at_work.values():
            process.wait()
        signal.signal(signal.SIGTERM, before)


def _start(job: Job, train_net: Path, threads: int) -> "subprocess.Popen[bytes]":
    """Raises ValueError where another process is at it: that holds the lock of its log for as long as it lives."""
    job.folder.mkdir(parents=True, exist_ok=True)
    data = {"DETECTRON2_DATASETS": job.root} if job.root else {}
    environment = {**os.environ, **data, "OMP_NUM_THREADS": str(threads)}
    with open(job.folder / LOG, "ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{job.title}: a process of another comparison is at work in {job.folder}. Wait for it, or end it."
            ) from None
        return subprocess.Popen(job.command(train_net), stdout=log, stderr=log, env=environment)


def _check(job: Job, returncode: int) -> None:
    if returncode == 0 and job.is_done:
        return
    lines = (job.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    raise ValueError(
        f"{job.title} stopped with exit status {returncode}; {job.folder / LOG} ends so:\n"
        + "\n".join(lines[-LAST_LINES:])
    )
