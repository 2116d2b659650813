"""What tools/interpolate_weights.py does: weights between the start of a fine-tuning and its end, tested and stored."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tabulate import tabulate
from torch import Tensor

from dk_detr.commands.train import train_or_evaluate
from dk_detr.convert.reading import read_content, weights_in
from dk_detr.data.bank import identity_of
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.ema import averaged
from dk_detr.engine.fit import no_weights
from dk_detr.engine.keep import SHOWN, interpolate
from dk_detr.engine.keep.interpolation import of_detector
from dk_detr.engine.run_folder import FINAL, read_results
from dk_detr.engine.setup import for_inference, one_clear_error, setup_cfg, with_values
from dk_detr.language import WORDS
from dk_detr.utils import atomic_file, atomic_write

FOLDER, TABLE = "interpolated", "interpolation.md"  # in that of the run: results by share, and all together


def main(args: argparse.Namespace) -> None:
    """See tools/interpolate_weights.py for the arguments."""
    with one_clear_error():
        run = Path(args.run)
        cfg = _config_of(run, args.opts)
        start, tuned = Path(args.start or _start_of(cfg, run)), run / FINAL
        shares = _shares(args.alpha)
        written = write_between(cfg, start, tuned, shares, run)
        for path, share in zip(written, shares):
            folder = run / FOLDER / f"{share:.2f}"
            if args.opts or not _is_done(folder, path):  # with options the results may be other ones
                options = ["MODEL.WEIGHTS", str(path), "OUTPUT_DIR", str(folder), *args.opts]
                train_or_evaluate(str(run / "config.yaml"), options, eval_only=True)
        text = _table({share: _results(run / FOLDER / f"{share:.2f}", cfg) for share in shares})
        atomic_write(run / TABLE, text + "\n")
        print(text, f"\nweights: {', '.join(map(str, written))}\ntable: {run / TABLE}", sep="\n")


def _config_of(run: Path, opts: list[str]) -> CfgNode:
    for name in ("config.yaml", FINAL):
        if not (run / name).is_file():
            raise FileNotFoundError(f"{run} holds no finished run: {name} is missing. Name the OUTPUT_DIR of one.")
    cfg = setup_cfg(str(run / "config.yaml"), opts)
    if not cfg.DATASETS.TEST:
        raise ValueError(f"DATASETS.TEST of {run / 'config.yaml'} is empty: there is nothing to choose a share by.")
    return cfg


def _start_of(cfg: CfgNode, run: Path) -> str:
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(f"{run / 'config.yaml'} does not say from which weights it started: name them, --start.")
    return str(cfg.MODEL.WEIGHTS)


def _shares(given: list[float]) -> list[float]:
    shares = [round(share, 2) for share in given]
    if min(shares) < 0 or max(shares) > 1 or len({*shares}) < len(shares):
        raise ValueError(f"--alpha takes different shares in [0, 1], of two digits, got {' '.join(map(str, given))}.")
    return shares


def write_between(cfg: CfgNode, start: Path, tuned: Path, shares: list[float], folder: Path) -> list[Path]:
    """Write a checkpoint for each share of the tuned weights, with the files that it is of ("provenance") and the words
    of both trainings. What is there already is left alone.

    Args:
        cfg: of the fine-tuning.

    Raises: FileNotFoundError; ValueError for weights of two detectors, naming the first that differs.
    """
    for path in (start, tuned):
        if not path.is_file():
            raise no_weights(str(path))
    files = {"start": identity_of(str(start)), "tuned": identity_of(str(tuned))}
    paths = {share: folder / f"model_interpolated_{share:.2f}.pth" for share in shares}
    missing = {share: path for share, path in paths.items() if _provenance(path) != {**files, "alpha": share}}
    if not missing:
        return list(paths.values())
    before, after = read_content(start), read_content(tuned)
    ends = _as_the_run_began(cfg, start), of_detector(averaged(after) or weights_in(after, tuned).state)
    for share, path in missing.items():
        content = {"model": interpolate(*ends, share), "provenance": {**files, "alpha": share}, **_words(before, after)}
        with atomic_file(path) as part:
            torch.save(content, part)
    return list(paths.values())


def _as_the_run_began(cfg: CfgNode, start: Path) -> dict[str, Tensor]:
    """The weights of a start, as the training took them: by its names, of its parts, with its calibration."""
    model: Any = build_model(with_values(for_inference(cfg), {"MODEL.CALIBRATION": cfg.MODEL.CALIBRATION})).train()
    StrictCheckpointer(model, keeps=True).load(str(start))
    return of_detector(model.state_dict())


def _words(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What checkpoints say of words: those of the tuned, and, as trained before, those of the start."""
    words, earlier = after.get(WORDS), before.get(WORDS, {})
    if words is None:
        return {}
    names = {*words.get("before", ()), *earlier.get("before", ()), *earlier.get("names", ())}
    return {WORDS: {**words, "before": sorted(names)}}


def _provenance(path: Path) -> Any:
    return read_content(path).get("provenance") if path.is_file() else None


def _is_done(folder: Path, weights: Path) -> bool:
    """Whether the weights have been tested since they were written."""
    results = folder / "results.json"
    return results.is_file() and results.stat().st_mtime >= weights.stat().st_mtime


def _results(folder: Path, cfg: CfgNode) -> dict[str, Any]:
    found: dict[str, Any] = (read_results(str(folder)) or {})["results"]
    return {cfg.DATASETS.TEST[0]: found} if len(cfg.DATASETS.TEST) == 1 else found


def _table(results: Mapping[float, Mapping[str, Any]]) -> str:
    """Markdown: a row for each share, 0.00 the start and 1.00 the tuned; a column for each metric of each data set."""
    rows = [
        {"share of the tuned": f"{share:.2f}"}
        | {
            f"{name}, {metric}": f"{kinds['bbox'][metric]:.1f}"
            for name, kinds in found.items()
            for metric in SHOWN
            if math.isfinite(kinds["bbox"].get(metric, math.nan))
        }
        for share, found in results.items()
    ]
    return tabulate(rows, headers="keys", tablefmt="pipe", disable_numparse=True, stralign="right")
