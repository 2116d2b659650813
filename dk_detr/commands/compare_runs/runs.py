"""Runs that are compared: each trains in a process of its own, and goes on where it was interrupted."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from detectron2.config import CfgNode
from tqdm import tqdm

from dk_detr.data.bank import unequal
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import setup_cfg
from dk_detr.visualization.curves import History, iterations_done, read_metrics

LOG = "train.txt"
LAST_LINES = 5  # of a failed run's log that its error shows


@dataclass(frozen=True)
class Run:
    """A config with options, and the folder that it trains in."""

    name: str
    config_file: str
    folder: Path
    options: tuple[str, ...]

    @property
    def is_done(self) -> bool:
        """Whether it was trained to its end, and evaluated there."""
        cfg, results = self.cfg, read_results(str(self.folder)) or {}
        evaluated = not cfg.DATASETS.TEST or results.get("iteration") == cfg.SOLVER.MAX_ITER
        return (self.folder / "model_final.pth").is_file() and evaluated

    @property
    def history(self) -> History:
        """The metrics that it has recorded so far."""
        metrics = self.folder / "metrics.json"
        return read_metrics(metrics) if metrics.is_file() else {}

    @cached_property
    def cfg(self) -> CfgNode:
        """Its whole config."""
        return setup_cfg(self.config_file, list(self.options))

    def command(self, train_net: Path) -> list[str]:
        """The command that trains it, or goes on with it."""
        return [sys.executable, str(train_net), "--config-file", self.config_file, "--resume", *self.options]


def runs_of(config_files: Sequence[str], output: Path, options: Sequence[str], period: int) -> list[Run]:
    """One run for each config, evaluated and saved every `period` iterations.

    Raises: ValueError for two configs of one name, whose folders would be the same.
    """
    names = [Path(file).stem for file in config_files]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f'Two configs are called "{twice[0]}": their runs would share the folder {output / twice[0]}.')
    every = {"TEST.EVAL_PERIOD": period, "SOLVER.CHECKPOINT_PERIOD": period, "SOLVER.CHECKPOINTS_TO_KEEP": 999}
    kept = [str(word) for pair in every.items() for word in pair]
    return [
        Run(name, file, output / name, (*options, *kept, "OUTPUT_DIR", str(output / name)))
        for name, file in zip(names, config_files)
    ]


def refuse_other_runs(runs: Sequence[Run]) -> None:
    """Raises ValueError for a folder that holds a run of other settings: its results would be shown for these."""
    for run in runs:
        if not (run.folder / "config.yaml").is_file():
            continue
        saved = (run.folder / "config.yaml").read_text(encoding="utf-8")
        changed = list(unequal(yaml.safe_load(saved), yaml.safe_load(run.cfg.dump())))
        if changed:
            (key, was, now), more = changed[0], f", and {len(changed) - 1} more keys" if changed[1:] else ""
            raise ValueError(
                f"{run.folder} holds a run of other settings: {key} was {was!r}, now {now!r}{more}. "
                "Choose another --output, or delete it."
            )


def train(runs: Sequence[Run], train_net: Path, parallel: int) -> None:
    """Train those that are not done, `parallel` at a time, with an equal share of the CPUs each.

    Raises: ValueError for a run that fails, with the end of its log; the others are stopped, and can go on.
    """
    waiting = [run for run in runs if not run.is_done]
    if not waiting:
        return
    total = sum(run.cfg.SOLVER.MAX_ITER for run in waiting)
    at_work: dict[Run, subprocess.Popen[bytes]] = {}
    queue = list(waiting)
    with tqdm(total=total, desc="training", unit="it") as bar:
        try:
            while queue or at_work:
                while queue and len(at_work) < parallel:
                    run = queue.pop(0)
                    at_work[run] = _start(run, train_net, parallel)
                time.sleep(1)
                for run in [run for run, process in at_work.items() if process.poll() is not None]:
                    _check(run, at_work.pop(run).returncode)
                bar.n = sum(iterations_done(run.history) for run in waiting)
                bar.set_postfix_str(", ".join(run.name for run in at_work))
        finally:
            for process in at_work.values():
                process.terminate()


def _start(run: Run, train_net: Path, parallel: int) -> "subprocess.Popen[bytes]":
    run.folder.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    with open(run.folder / LOG, "ab") as log:
        return subprocess.Popen(
            run.command(train_net), stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": threads}
        )


def _check(run: Run, returncode: int) -> None:
    if returncode == 0 and run.is_done:
        return
    lines = (run.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    raise ValueError(
        f"{run.name} stopped with exit status {returncode}; {run.folder / LOG} ends so:\n"
        + "\n".join(lines[-LAST_LINES:])
    )
