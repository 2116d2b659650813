"""Runs that are compared: each config is trained with each seed, in a folder of its own."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import yaml
from detectron2.config import CfgNode

from dk_detr.engine.renamed_keys import by_dotted_key
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import default_cfg, setup_cfg
from dk_detr.visualization.curves import History, iterations_done, read_metrics


@dataclass(frozen=True)
class Run:
    """A config with options, and the folder that it trains in.

    Attributes:
        name: of the config. seed: of --seeds; None where the config has it.
    """

    name: str
    config_file: str
    folder: Path
    options: tuple[str, ...]
    seed: int | None = None

    @property
    def title(self) -> str:
        """How terminal and errors call it."""
        return self.name if self.seed is None else f"{self.name}, seed {self.seed}"

    @property
    def root(self) -> str | None:
        """Data sets are below DETECTRON2_DATASETS."""
        return None

    @property
    def is_done(self) -> bool:
        """Whether it was trained to its end, and evaluated there."""
        cfg, results = self.cfg, read_results(str(self.folder)) or {}
        evaluated = not cfg.DATASETS.TEST or results.get("iteration") == cfg.SOLVER.MAX_ITER
        return self.weights.is_file() and evaluated

    @property
    def units(self) -> int:
        """Iterations to do."""
        return int(self.cfg.SOLVER.MAX_ITER)

    @property
    def units_done(self) -> int:
        """Iterations that are done."""
        return iterations_done(self.history)

    @property
    def weights(self) -> Path:
        """What it has learned in the end."""
        return self.folder / "model_final.pth"

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


def runs_of(
    config_files: Sequence[str],
    output: Path,
    options: Sequence[str],
    period: int,
    seeds: Sequence[int] = (),
    rows: Sequence[Sequence[str]] = (),
) -> list[Run]:
    """One run for each config or row, and seed, evaluated and saved every `period` iterations: in
    <output>/<name>/<seed>, or, without seeds, in <output>/<name>.

    Args:
        rows: each a name, a config file, and its own KEY VALUE pairs.

    Raises: ValueError for seeds that cannot be, for configs that cannot be told apart, and for rows that are none.
    """
    named = [*zip(names_of(config_files), config_files, [()] * len(config_files)), *map(_row, rows)]
    _check_names([name for name, *_ in named])
    for options_of_row in [options, *(own for *_, own in named)]:
        _check_seeds(seeds, options_of_row)
    every = {"TEST.EVAL_PERIOD": period, "SOLVER.CHECKPOINT_PERIOD": period, "SOLVER.CHECKPOINTS_TO_KEEP": 999}
    runs = []
    for name, file, own in named:
        for seed in seeds or (None,):
            folder = output / name if seed is None else output / name / str(seed)
            keys = {**every, **({} if seed is None else {"SEED": seed}), "OUTPUT_DIR": folder}
            kept = [str(word) for pair in keys.items() for word in pair]
            runs.append(Run(name, file, folder, (*options, *own, *kept), seed))
    return runs


def _row(words: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """Name, config file and options of a --row."""
    if len(words) < 2 or len(words) % 2:
        raise ValueError(f"--row takes NAME FILE and pairs KEY VALUE, got {' '.join(words)}.")
    name, file, *own = words
    if name.endswith((".yaml", ".yml")) or Path(name).name != name or name == "..":
        raise ValueError(f'--row {name}: the first word is the name of the row and of its folder, such as "fitnet".')
    return name, file, tuple(own)


def _check_names(names: Sequence[str]) -> None:
    """On disks that ignore case, too."""
    if not names:
        raise ValueError("Nothing to compare: name configs, --config-file FILE …, or rows, --row NAME FILE.")
    folded = [name.casefold() for name in names]
    twice = [name for name in names if folded.count(name.casefold()) > 1]
    if twice:
        raise ValueError(f'Two rows would be called "{twice[0]}": give a --row another name.')


def _check_seeds(seeds: Sequence[int], options: Sequence[str]) -> None:
    if len({*seeds}) < len(seeds) or min(seeds, default=0) < 0:
        raise ValueError(f"--seeds must be different numbers from 0 on, got {' '.join(map(str, seeds))}.")
    if seeds and "SEED" in options[::2]:
        raise ValueError("--seeds and SEED in --opts or --row both say the seed. Give one of them.")


def names_of(config_files: Sequence[str]) -> list[str]:
    """What runs and their folders are called: the name of the file, with as many of its folders as tell it from the
    others, on disks that ignore case, too: "mini-vild", "ViLD-ViLD".

    Raises: ValueError for a config that is given twice.
    """
    parts = [_parts(Path(file).with_suffix("")) for file in config_files]
    names = [""] * len(parts)
    for depth in range(1, max(map(len, parts), default=0) + 1):
        tails = ["-".join(part[-depth:]) for part in parts]
        folded = [tail.casefold() for tail in tails]
        names = [name or (tail if folded.count(tail.casefold()) == 1 else "") for name, tail in zip(names, tails)]
    for name, file in zip(names, config_files):
        if not name or [other.casefold() for other in names].count(name.casefold()) > 1:
            raise ValueError(f"--config-file: {file} is given twice, or cannot be told from another by its folders.")
    return names


def _parts(path: Path) -> tuple[str, ...]:
    return path.relative_to(path.anchor).parts


class Job(Protocol):
    """What is done in a process of its own: the training of a run, or an evaluation of its weights."""

    @property
    def title(self) -> str:
        """How terminal and errors call it."""

    @property
    def folder(self) -> Path:
        """What it writes to."""

    @property
    def cfg(self) -> CfgNode:
        """Its whole config."""

    @property
    def root(self) -> str | None:
        """Where its data sets are, in place of DETECTRON2_DATASETS; None for there."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do."""

    @property
    def units(self) -> int:
        """How much there is to do, for the progress bar."""

    @property
    def units_done(self) -> int:
        """How much of it is done."""

    def command(self, train_net: Path) -> list[str]:
        """The command that does it, or goes on with it."""


def refuse_other_runs(jobs: Sequence[Job]) -> None:
    """Raises ValueError for a folder that holds a run of other settings: its results would be shown for these."""
    for job in jobs:
        if not (job.folder / "config.yaml").is_file():
            continue
        changed = _changes(job)
        if changed:
            (key, was, now), more = changed[0], f", and {len(changed) - 1} more keys" if changed[1:] else ""
            raise ValueError(
                f"{job.folder} holds a run of other settings: {key} was {was!r}, now {now!r}{more}. "
                "Choose another --output, or delete it."
            )


def _changes(job: Job) -> list[tuple[str, Any, Any]]:
    """Dotted key, value in the folder, value now. A key that is newer than the run counts as at its default then."""
    saved = _by_dotted_key((job.folder / "config.yaml").read_text(encoding="utf-8"))
    before = {**_by_dotted_key(default_cfg(job.cfg.PROJECTS).dump()), **saved}
    now = _by_dotted_key(job.cfg.dump())
    return [(key, before.get(key), now.get(key)) for key in {**now, **saved} if before.get(key) != now.get(key)]


def _by_dotted_key(config: str) -> dict[str, Any]:
    return by_dotted_key(yaml.safe_load(config))


def refuse_mixed_folders(runs: Sequence[Run]) -> None:
    """Raises ValueError for a folder where a run without --seeds would meet runs with them."""
    for run in runs:
        if run.seed is not None and (run.folder.parent / "config.yaml").is_file():
            raise ValueError(
                f"{run.folder.parent} holds a run without --seeds. Choose another --output, or leave out --seeds."
            )
        seeded = sorted(path.parent.name for path in run.folder.glob("*/config.yaml") if path.parent.name.isdecimal())
        if run.seed is None and seeded:
            raise ValueError(
                f"{run.folder} holds runs of seeds {', '.join(seeded)}. Choose another --output, or add --seeds."
            )
