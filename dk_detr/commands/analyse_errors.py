"""What tools/analyse_errors.py does: the errors of a file of results, or of a run, as tables, JSON and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from detectron2.data import MetadataCatalog

from dk_detr.commands.show_run import config_of, saved_detections_file
from dk_detr.engine.evaluate import groups_of, novel_names_of, words_of
from dk_detr.engine.setup import one_clear_error
from dk_detr.evaluation.errors import Analysis, analyse_files, as_record, report, word_table
from dk_detr.evaluation.errors.tables import GAIN_TITLES, SHARE_TITLES
from dk_detr.language import vocabularies_from_config
from dk_detr.utils import as_json, atomic_write
from dk_detr.utils.names import novel_names, split_names
from dk_detr.visualization.errors import draw_errors
from dk_detr.visualization.pictures import save_picture

Groups = dict[str, Collection[str]]
FILES = ("annotations", "results", "protocol")
ALL_CONFUSIONS = 100  # in the file of tables


class Source(NamedTuple):
    """What is analysed; see `analyse_files`."""

    annotations: str
    results: str
    protocol: str
    novel: Collection[str] | None
    groups: Groups


def main(args: argparse.Namespace) -> None:
    """See tools/analyse_errors.py for the arguments."""
    with one_clear_error():
        picture = _picture_file(args)
        source = _source(args)
        analysis = analyse_files(*source, iou_type=args.iou_type)
        what = {"bbox": "boxes", "segm": "masks"}[args.iou_type]
        print(report(analysis, what))
        if args.json:
            atomic_write(args.json, as_json(as_record(analysis), indent=2))
        if args.tables:
            _write_tables(analysis, Path(args.tables), source.protocol, what)
        if picture:
            save_picture(_draw(analysis, f"{Path(source.results).name}: {analysis.title}, {what}"), picture)
            print(f"\npicture: {picture}")


def _picture_file(args: argparse.Namespace) -> str:
    """Where the picture goes; "" for none. Raises ValueError for a format that is not PNG."""
    if args.picture is None:
        return str(Path(args.output_dir) / "pictures" / "errors.png") if args.output_dir else ""
    if args.picture and Path(args.picture).suffix.lower() != ".png":
        raise ValueError(f"--picture {args.picture} does not end in .png; the picture is a PNG.")
    return str(args.picture)


def _source(args: argparse.Namespace) -> Source:
    """The files that the arguments name, or those of a run. Raises ValueError where both or neither is named."""
    given = {name: getattr(args, name) for name in FILES}
    novel, groups = novel_names(args.novel), _groups(args.group)
    if args.output_dir:
        named = [name for name in FILES if given[name]]
        if named:
            raise ValueError(f"--output-dir finds the files of a run itself; leave out --{named[0]}.")
        return _source_of_run(Path(args.output_dir), args.dataset, novel, groups)
    lacking = [f"--{name}" for name in FILES if not given[name]]
    if lacking:
        raise ValueError(f"Name the folder of a run by --output-dir, or files; {', '.join(lacking)} is missing.")
    if args.dataset:
        raise ValueError("--dataset chooses a data set of a run; it goes with --output-dir.")
    return Source(given["annotations"], given["results"], given["protocol"], novel, groups)


def _source_of_run(run: Path, dataset: str, novel: Collection[str] | None, groups: Groups) -> Source:
    """What the last evaluation of a run left, with the novel names and groups that it had.

    Raises: FileNotFoundError where it left no detections; ValueError for a data set that the run was not tested on.
    """
    cfg = config_of(run)
    name = dataset or cfg.DATASETS.TEST[0]
    if name not in cfg.DATASETS.TEST:
        raise ValueError(f"--dataset {name} is not in DATASETS.TEST of {run} ({', '.join(cfg.DATASETS.TEST)}).")
    results, data_set = saved_detections_file(run, name), MetadataCatalog.get(name)
    if not results.is_file():
        command = f"tools/train_net.py --config-file {run / 'config.yaml'} --eval-only --resume"
        raise FileNotFoundError(f"{run} has no detections of {name} ({results}); to make them: {command}")
    if novel is None:
        novel = novel_names_of(name, words_of(cfg, name, vocabularies_from_config(cfg)[1]))
    return Source(data_set.json_file, str(results), data_set.evaluator_type, novel, {**groups_of(name), **groups})


def _groups(given: Sequence[str]) -> Groups:
    """NAME=A,B … by name. Raises ValueError for what is not that, and for a name that stands twice."""
    groups: Groups = {}
    for text in given:
        name, _, members = text.partition("=")
        if not (name.strip() and members.strip()):
            raise ValueError(f'--group "{text}" is not NAME=A,B, such as unseen="ring, pentagon".')
        if name.strip() in groups:
            raise ValueError(f'--group names the group "{name.strip()}" twice.')
        groups[name.strip()] = split_names(members)
    return groups


def _write_tables(analysis: Analysis, folder: Path, protocol: str, what: str) -> None:
    """Write the report and the table of words as Markdown."""
    name = f"{protocol}_errors{'' if what == 'boxes' else '_masks'}"
    atomic_write(folder / f"{name}.md", f"{report(analysis, what, ALL_CONFUSIONS)}\n")
    atomic_write(folder / f"{name}_words.md", f"{word_table(analysis)}\n")


def _draw(analysis: Analysis, title: str) -> np.ndarray:
    groups = {name: group for name, group in analysis.groups.items() if group.objects}
    shares = {name: {SHARE_TITLES[kind]: share for kind, share in group.best.items()} for name, group in groups.items()}
    gains = {name: {GAIN_TITLES[kind]: gain for kind, gain in group.gains.items()} for name, group in groups.items()}
    return draw_errors(shares, gains, title)
