"""What tools/compare_runs.py does."""

import argparse
from pathlib import Path

from detectron2.modeling import build_model

from dk_detr.commands.compare_runs.matching import changes_of_matching, has_steady_queries
from dk_detr.commands.compare_runs.runs import Run, refuse_other_runs, runs_of, train
from dk_detr.engine.setup import one_clear_error
from dk_detr.utils import atomic_write
from dk_detr.visualization.comparison import Curve, curve_of, draw, table
from dk_detr.visualization.pictures import save_picture

MATCHING = "objects matched to another query, %"


def main(args: argparse.Namespace, train_net: Path) -> None:
    """See tools/compare_runs.py for the arguments."""
    with one_clear_error():
        output = Path(args.output)
        runs = runs_of(args.config_file, output, args.opts, args.period)
        if args.parallel < 1 or args.period < 1:
            raise ValueError(f"--parallel and --period must be 1 or more, got {args.parallel} and {args.period}.")
        refuse_other_runs(runs)
        # Built before any is trained, so that a mistake in the last config is said in time.
        millions = {run.name: _millions(run) for run in runs}
        train(runs, train_net, args.parallel)
        changes = {run.name: _changes(run, args.matching_images) for run in runs if has_steady_queries(run.cfg)}
        histories = {run.name: run.history for run in runs}
        panels = {
            metric: {name: curve_of(history, metric) for name, history in histories.items()} for metric in args.metric
        }
        if changes:
            panels[MATCHING] = changes
        lines = table(histories, args.metric, changes, millions)
        save_picture(draw(panels), output / "comparison.png")
        atomic_write(output / "comparison.md", lines + "\n")
        print(lines, f"\npictures and table: {output / 'comparison.png'}, {output / 'comparison.md'}", sep="\n")


def _changes(run: Run, num_images: int) -> Curve:
    """In per cent."""
    changes = changes_of_matching(run.cfg, run.folder, num_images)
    return list(changes), [100 * share for share in changes.values()]


def _millions(run: Run) -> float:
    return sum(parameter.numel() for parameter in build_model(run.cfg).parameters()) / 1e6
