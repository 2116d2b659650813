"""What tools/compare_runs.py does."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.modeling import build_model

from dk_detr.commands.compare_runs.also_test import Evaluation, also_tests, refuse_what_cannot_be_evaluated
from dk_detr.commands.compare_runs.matching import changes_of_matching, has_steady_queries
from dk_detr.commands.compare_runs.runs import Run, refuse_mixed_folders, refuse_other_runs, runs_of
from dk_detr.commands.compare_runs.work import default_parallel, work
from dk_detr.engine.custom_vocabulary import prepare_custom_data
from dk_detr.engine.setup import one_clear_error
from dk_detr.utils import atomic_write
from dk_detr.visualization.comparison import Compared, Curve, curve_of, differences, draw, table
from dk_detr.visualization.pictures import save_picture

MATCHING = "objects matched to another query, %"


def main(args: argparse.Namespace, train_net: Path) -> None:
    """See tools/compare_runs.py for the arguments."""
    with one_clear_error():
        output, tests = Path(args.output), also_tests(args.also_test)
        runs = runs_of(args.config_file, output, args.opts, args.period, args.seeds, args.row)
        parallel = default_parallel(len(runs)) if args.parallel is None else args.parallel
        if parallel < 1 or args.period < 1:
            raise ValueError(f"--parallel and --period must be 1 or more, got {parallel} and {args.period}.")
        _check_baseline(args.baseline, runs)
        evaluations = [Evaluation(run, test) for run in runs for test in tests]
        refuse_mixed_folders(runs)
        refuse_other_runs([*runs, *evaluations])
        millions = _checked(runs, evaluations)
        work(runs, train_net, parallel, "training", "it")
        work(evaluations, train_net, parallel, "evaluating", "evaluation")
        compared = {}
        for name in millions:
            own = [run for run in runs if run.name == name]
            compared[name] = _compared(own, evaluations, millions[name], args.matching_images)
        save_picture(draw(_panels(compared, args.metric)), output / "comparison.png")
        text = _text(compared, runs, args.metric, args.baseline)
        atomic_write(output / "comparison.md", text + "\n")
        print(text, f"\npicture and table: {output / 'comparison.png'}, {output / 'comparison.md'}", sep="\n")


def _check_baseline(baseline: str, runs: Sequence[Run]) -> None:
    names = list(dict.fromkeys(run.name for run in runs))
    if baseline and baseline not in names:
        raise ValueError(f"--baseline {baseline} is none of the rows; these are: {', '.join(names)}.")
    if baseline and len(names) == 1:
        raise ValueError(f"--baseline {baseline} is the only row. Give another, --config-file or --row.")
    if baseline and len(runs) == len(names):
        raise ValueError("--baseline compares differences with the spread of seeds. Give several: --seeds 0 1 2.")


def _checked(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """Builds each config before any is trained, so that a mistake in the last is said in time.

    Returns: name of the config -> millions of parameters.
    """
    millions = {}
    for run in runs:
        if run.name in millions:
            continue
        prepare_custom_data(run.cfg, training=True)  # the words that the model is built with
        model: Any = build_model(run.cfg)
        millions[run.name] = sum(parameter.numel() for parameter in model.parameters()) / 1e6
        for evaluation in evaluations:
            if evaluation.run == run:
                refuse_what_cannot_be_evaluated(evaluation, model)
    return millions


def _compared(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], millions: float, matching_images: int
) -> Compared:
    """Of the runs of one config."""
    also: dict[str, list[dict[str, float]]] = {}
    for evaluation in evaluations:
        if evaluation.run in runs:
            also.setdefault(evaluation.test.text, []).append(evaluation.scores)
    steady = [run for run in runs if has_steady_queries(run.cfg)]
    return Compared([run.history for run in runs], millions, also, [_changes(run, matching_images) for run in steady])


def _changes(run: Run, num_images: int) -> Curve:
    """In per cent."""
    changes = changes_of_matching(run.cfg, run.folder, num_images)
    return list(changes), [100 * share for share in changes.values()]


def _panels(compared: Mapping[str, Compared], metrics: Sequence[str]) -> dict[str, dict[str, list[Curve]]]:
    panels = {
        metric: {name: [curve_of(history, metric) for history in one.histories] for name, one in compared.items()}
        for metric in metrics
    }
    matching = {name: list(one.changes) for name, one in compared.items() if one.changes}
    return {**panels, **({MATCHING: matching} if matching else {})}


def _text(compared: Mapping[str, Compared], runs: Sequence[Run], metrics: Sequence[str], baseline: str) -> str:
    """The table, what its columns mean, and the differences to the baseline."""
    seeds = list(dict.fromkeys(str(run.seed) for run in runs))
    tests = ", ".join(dict.fromkeys(run.cfg.DATASETS.TEST[0] for run in runs if run.cfg.DATASETS.TEST))
    notes = [f"At the end and halfway: {tests}." if len(seeds) == 1 else f"At the end: {tests}."] if tests else []
    if len(seeds) > 1:
        notes.append(f"Mean ± half the range, and the values of seeds {', '.join(seeds)}.")
    parts = [table(compared, metrics), *([" ".join(notes)] if notes else [])]
    if baseline:
        parts.append(f"Differences of the means to {baseline}, larger than the spread unless the ranges overlap:")
        parts.append(differences(compared, metrics, baseline))
    return "\n\n".join(parts)
