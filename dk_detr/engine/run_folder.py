"""The folder of a run, OUTPUT_DIR: its files, its results, the config that it was trained with, and its checkpoints."""

import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils import comm

from dk_detr.engine.renamed_keys import by_dotted_key
from dk_detr.utils import as_json, atomic_write, read_json, with_nan

EVALUATION = "evaluation"  # folder in that of a run, for what --eval-only finds
RESULTS, LAST, FINAL = "results.json", "last_checkpoint", "model_final.pth"
_NUMBERED_CHECKPOINT = re.compile(r"model_(\d{7,})\.pth")
_RUN_FILE = re.compile(
    r"(model|doubtful)_.*\.pth|last_checkpoint|results\.json|before\.json|metrics\.json|config\.yaml|custom_vocabulary\.npz|"
    r"events\.out\.tfevents.*|inference|evaluation"
)
_FREE_TO_CHANGE = ("OUTPUT_DIR", "MODEL.WEIGHTS")  # a run that goes on does not read them

Changes = dict[str, tuple[Any, Any]]  # key -> its value in the run, its value now


def holds_run(folder: str) -> bool:
    """Whether there is what a run leaves and a user would miss: a checkpoint, or results."""
    names = os.listdir(folder) if os.path.isdir(folder) else []
    checkpoints = [name for name in names if name in (LAST, FINAL) or _NUMBERED_CHECKPOINT.fullmatch(name)]
    return bool(checkpoints or results_of_run(folder))


@contextmanager
def old_run_moved_aside(folder: str, weights: str) -> Iterator[str]:
    """Moves the files of an old run out of the way of a new one that starts in the same folder: into its sub-folder
    `previous_<n>`. Where the block, which sets up the new run, fails, they are moved back. The log file stays.

    Args:
        weights: MODEL.WEIGHTS. Raises ValueError where they are among what would be moved.

    Yields: a sentence for the log; "" where there was no run.
    """
    held = holds_run(folder) or read_results(folder) is not None  # or those of --eval-only
    if held and os.path.dirname(os.path.abspath(weights)) == os.path.abspath(folder):
        raise ValueError(
            f"MODEL.WEIGHTS {weights} belongs to the run that OUTPUT_DIR holds. Add --resume to go on with it; for a "
            "new run from these weights name another OUTPUT_DIR."
        )
    moved = _move_run_files_aside(folder) if comm.is_main_process() and held else None
    comm.synchronize()
    try:
        told = f"OUTPUT_DIR {folder} held a run that this one does not go on with: it is now in {moved}."
        yield told if moved else ""
    except BaseException:
        if moved:
            _remove_run_files(folder)
            _move(os.listdir(moved), moved, folder)
            os.rmdir(moved)
        raise


def _move_run_files_aside(folder: str) -> str:
    number = next(n for n in count(1) if not os.path.exists(os.path.join(folder, f"previous_{n}")))
    place = os.path.join(folder, f"previous_{number}")
    os.mkdir(place)
    _move(_run_files(folder), folder, place)
    return place


def _run_files(folder: str) -> list[str]:
    return [name for name in os.listdir(folder) if _RUN_FILE.fullmatch(name)]


def _remove_run_files(folder: str) -> None:
    """Remove what the run has written that failed before it began."""
    for name in _run_files(folder):
        path = os.path.join(folder, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)


def _move(names: Iterable[str], source: str, target: str) -> None:
    for name in names:
        os.replace(os.path.join(source, name), os.path.join(target, name))


def has_checkpoint(folder: str) -> bool:
    """Whether --resume has something to go on from."""
    return os.path.isfile(os.path.join(folder, LAST))


# ---- results ----


def write_results(folder: str, iteration: int, results: Any, **more: Any) -> None:
    """Keep evaluation results in `results.json`, with the number of iterations they belong to. Results of --eval-only
    also name their `weights`; those of a run do not."""
    content = as_json({"iteration": iteration, **more, "results": results}, indent=2)
    atomic_write(os.path.join(folder, RESULTS), content)


def read_results(folder: str) -> dict[str, Any] | None:
    """What `write_results` kept, or None. Raises ValueError for a file that is no JSON."""
    path = os.path.join(folder, RESULTS)
    if not os.path.isfile(path):
        return None
    content: dict[str, Any] = read_json(path, "file of results")
    return {**content, "results": content.get("results") and with_nan(content["results"])}


def results_of_run(folder: str) -> dict[str, Any] | None:
    """The same, if they are of a run; None for those of --eval-only."""
    found = read_results(folder)
    return None if found and "weights" in found else found


def evaluation_folder(folder: str) -> str:
    """Where --eval-only may write: beside what a run has recorded, not over it."""
    return os.path.join(folder, EVALUATION) if holds_run(folder) else folder


def results_folder(folder: str) -> str:
    """Where the results of a run are: those of its own, or, where it has none, those of --eval-only."""
    beside = os.path.join(folder, EVALUATION)
    return beside if read_results(folder) is None and read_results(beside) else folder


# ---- the config of the run ----


def write_config(cfg: CfgNode, folder: str) -> None:
    """Write `config.yaml`, from which the run can be evaluated and shown."""
    atomic_write(os.path.join(folder, "config.yaml"), cfg.dump())


def changes_since(folder: str, cfg: CfgNode) -> Changes:
    """Keys whose values differ from those in the `config.yaml` of a run; {} where that cannot be read."""
    try:
        with open(os.path.join(folder, "config.yaml"), encoding="utf-8") as file:
            before = by_dotted_key(yaml.safe_load(file))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return {}
    now = by_dotted_key(yaml.safe_load(cfg.dump()))
    return {key: (before[key], value) for key, value in now.items() if key in before and before[key] != value}


def log_changes(changes: Changes, iteration: int) -> None:
    """Log each change with which a run goes on from this iteration."""
    for key, (before, now) in changes.items():
        if key not in _FREE_TO_CHANGE:
            logging.getLogger(__name__).info(f"{key} {before} -> {now} from iteration {iteration} on.")


@contextmanager
def changes_in_errors(changes: Changes) -> Iterator[None]:
    """Where a run cannot go on, the error lists the changed keys that may be the reason."""
    try:
        yield
    except ValueError as error:
        told = [f"{key} {old} -> {new}" for key, (old, new) in changes.items() if _may_be_the_reason(key)]
        if not told:
            raise
        raise ValueError(f"{error} Changed since the run was trained: {', '.join(told)}.") from error


def _may_be_the_reason(key: str) -> bool:
    return key.startswith(("MODEL.", "SOLVER.")) and key not in _FREE_TO_CHANGE


# ---- its checkpoints ----


def numbered_checkpoints(folder: str) -> dict[int, str]:
    """Names of the checkpoints of a run by the iteration that was the last they have seen, the oldest first."""
    found = {name: match for name in os.listdir(folder) if (match := _NUMBERED_CHECKPOINT.fullmatch(name))}
    return dict(sorted((int(match[1]), name) for name, match in found.items()))


def fall_back(folder: str, iteration: int) -> str:
    """After training went wrong: let --resume start from a checkpoint that is sound, and say which that is.

    Older checkpoints are sound: with their weights the losses of the next iteration were finite. The one that was saved
    right before may hold the weights that went wrong, so it is renamed to `doubtful_<n>.pth`.

    Args:
        iteration: the first without a finite loss.

    Returns: a sentence for the error.
    """
    saved = numbered_checkpoints(folder)
    doubtful = saved.pop(iteration - 1, None)
    sound = [number for number in saved if number < iteration]
    if not sound:
        told = "No earlier checkpoint is known to be sound"
        return f"{told}; {doubtful}, saved right before, may be broken already." if doubtful else f"{told}."
    atomic_write(os.path.join(folder, LAST), saved[sound[-1]])
    told = f"--resume goes on from {saved[sound[-1]]}, after {sound[-1] + 1} iterations, which is sound"
    if doubtful is None:
        return f"{told}."
    aside = doubtful.replace("model", "doubtful", 1)
    os.replace(os.path.join(folder, doubtful), os.path.join(folder, aside))
    return f"{told}; what was saved right before is kept as {aside}, and may be broken already."
