"""Jobs at work side by side: nothing is done twice, one failure stops all, and nobody is left at work."""

import fcntl
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from detectron2.config import CfgNode

from dk_detr.commands.compare_runs import work as module
from dk_detr.commands.compare_runs.work import default_parallel, threads_each, work

FINISH = "import os, pathlib; pathlib.Path('{done}').write_text(os.environ['OMP_NUM_THREADS'])"


@dataclass(frozen=True)
class Script:
    """A job that runs a line of Python, in which {done} is the file that it is to write."""

    title: str
    folder: Path
    source: str = FINISH
    root: str | None = None
    cfg: CfgNode = CfgNode  # type: ignore[assignment]
    units: int = 1

    @property
    def done(self) -> Path:
        return self.folder / "done"

    @property
    def is_done(self) -> bool:
        return self.done.is_file()

    @property
    def units_done(self) -> int:
        return int(self.is_done)

    def command(self, train_net: Path) -> list[str]:
        return [sys.executable, "-c", self.source.format(done=self.done)]


def do(*jobs: Script, parallel: int = 1) -> None:
    work(jobs, Path("train_net.py"), parallel, "working", "job")


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS")


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    jobs = [Script(name, tmp_path / name) for name in "ab"]
    do(jobs[0])
    jobs[0].done.write_text("kept")
    do(*jobs)
    assert jobs[0].done.read_text() == "kept" and jobs[1].is_done


def test_a_job_sees_the_data_sets_of_its_root(tmp_path: Path) -> None:
    source = "import os, pathlib; pathlib.Path('{done}').write_text(os.environ['DETECTRON2_DATASETS'])"
    job = Script("a", tmp_path, source, root="datasets_1")
    do(job)
    assert job.done.read_text() == "datasets_1"


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("parallel", "threads"), [(1, 4), (2, 2), (3, 1), (4, 1), (9, 1)])
def test_jobs_share_the_cores(tmp_path: Path, parallel: int, threads: int) -> None:
    job = Script("a", tmp_path)
    do(job, parallel=parallel)
    assert job.done.read_text() == str(threads) == str(threads_each(parallel))


@pytest.mark.usefixtures("four_cores")
@pytest.mark.parametrize(("wanted", "threads"), [("1", 1), ("3", 3), ("8", 4), ("0", 4), ("4,2", 4)])
def test_a_job_has_no_more_threads_than_the_user_allows(
    monkeypatch: pytest.MonkeyPatch, wanted: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", wanted)
    assert threads_each(1) == threads


@pytest.mark.usefixtures("four_cores")
def test_by_default_each_core_has_a_run_and_a_gpu_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (default_parallel(3), default_parallel(9)) == (3, 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_parallel(9) == 1


def test_no_more_jobs_than_asked_for_are_at_work(tmp_path: Path) -> None:
    def alone(seconds: float) -> str:
        """Fails where another is at work."""
        lines = (
            "import pathlib, time",
            f"mark = pathlib.Path('{tmp_path}') / 'at work'",
            "mark.touch(exist_ok=False)",
            f"time.sleep({seconds})",
            "mark.unlink()",
            "pathlib.Path('{done}').touch()",
        )
        return "\n".join(lines)

    do(*[Script(name, tmp_path / name, alone(0.3)) for name in "abc"])
    with pytest.raises(ValueError, match="FileExistsError"):
        do(*[Script(name, tmp_path / name, alone(60)) for name in "xy"], parallel=2)


def test_a_failure_shows_the_end_of_its_log_and_stops_the_rest(tmp_path: Path) -> None:
    wrong = Script("wrong, seed 1", tmp_path / "wrong", "for i in range(9): print(i)\nraise SystemExit(3)")
    slow = Script("slow", tmp_path / "slow", "import time; time.sleep(60)")
    later = Script("later", tmp_path / "later")
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"(?s)wrong, seed 1 stopped with exit status 3; .*ends so:\n4\n5\n6\n7\n8$"):
        do(wrong, slow, later, parallel=2)
    assert time.monotonic() - began < 20 and not later.folder.exists()
    do(Script("slow", slow.folder))  # its process has ended, so another may begin


def test_a_job_that_ends_well_without_its_results_has_failed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="idle stopped with exit status 0"):
        do(Script("idle", tmp_path, "pass"))


def test_two_comparisons_do_not_work_in_the_same_folder(tmp_path: Path) -> None:
    job = Script("a", tmp_path)
    with open(tmp_path / module.LOG, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="a: a process of another comparison is at work in .* Wait for it"):
            do(job)
    do(job)
    assert job.is_done


def test_a_job_keeps_others_out_of_its_folder_when_the_comparison_is_gone(tmp_path: Path) -> None:
    locks = f"import fcntl; fcntl.flock(open('{tmp_path / module.LOG}', 'ab'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with pytest.raises(ValueError, match="BlockingIOError"):  # the lock is the job's, not that of its comparison
        do(Script("a", tmp_path, locks))


def test_a_comparison_that_is_ended_ends_its_jobs(tmp_path: Path) -> None:
    def end_when_begun() -> None:
        log = tmp_path / module.LOG
        while not (log.is_file() and "begun" in log.read_text()):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *_: pytest.fail("SIGTERM was not heeded"))
    ending = threading.Thread(target=end_when_begun)
    ending.start()
    try:
        with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
            do(Script("slow", tmp_path, "import time; print('begun', flush=True); time.sleep(60)"))
    finally:
        ending.join()
        signal.signal(signal.SIGTERM, before)
    do(Script("slow", tmp_path))  # refused if its process were still at work
