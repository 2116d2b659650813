"""What `tools/prepare_dataset.py check` does: says what is wrong with a data set, before hours are spent on it."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from dk_detr.data import DATASETS, datasets_root
from dk_detr.data.check import DatasetCheck, Defect, Kind
from dk_detr.data.datasets import remedy
from dk_detr.engine.setup import one_clear_error
from dk_detr.language import load_vocabulary
from dk_detr.utils import atomic_file

SHOWN = 5
INTERRUPTED = 130  # the exit status that shells give to Ctrl-C


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the sub-command."""
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help="a registered name, as in DATASETS.TRAIN")
    parser.add_argument("--json", metavar="FILE", help="instead of a name: annotations in COCO or LVIS format")
    parser.add_argument("--images", metavar="DIR", help="with --json: the folder that the file names are below")
    parser.add_argument("--vocabulary", metavar="FILE", help=".npz; every category name must be in it")
    parser.add_argument("--decode", action="store_true", help="decode all pixels: finds files that are cut short; slow")
    parser.add_argument("--show", type=int, default=SHOWN, metavar="N", help=f"of each kind in full (default {SHOWN})")
    parser.add_argument("--report", metavar="FILE", help="write all, one JSON object a line")


def main(args: argparse.Namespace) -> None:
    """Check and report. Exits with status 1 if there are defects (notes are none), with 130 if interrupted."""
    with one_clear_error():
        json_file, image_root = _files(args)
        _refuse_to_overwrite(json_file, args)
        names = load_vocabulary(args.vocabulary, key="--vocabulary").names if args.vocabulary else None
        check = DatasetCheck(json_file, image_root, names, decode=args.decode, progress=True)
        findings = Findings(args.show)
        try:
            with _report(args.report) as write:
                for defect in check:
                    findings.add(defect)
                    write(defect)
        except KeyboardInterrupt:
            print(_summary(check, findings))
            lost = f" {args.report} was not written." if args.report else ""
            print(f"Interrupted: {check.how_far}. This is what was found until then.{lost}")
            sys.exit(INTERRUPTED)
        print(_summary(check, findings))
        print(_verdict(findings, args.report))
    sys.exit(1 if findings.num_defects else 0)


class Findings:
    """Counts what is found, and keeps the first few of each kind."""

    def __init__(self, shown: int) -> None:
        self.shown = shown
        self.counts: Counter[Kind] = Counter()
        self.first: list[Defect] = []

    def add(self, defect: Defect) -> None:
        """Count a defect, and keep it if it is among the first of its kind."""
        if self.counts[defect.kind] < self.shown:
            self.first.append(defect)
        self.counts[defect.kind] += 1

    @property
    def num_defects(self) -> int:
        """How many defects there are; notes are none."""
        return sum(number for kind, number in self.counts.items() if not kind.is_note)

    @property
    def num_notes(self) -> int:
        """How many notes there are: worth knowing, but not wrong."""
        return sum(number for kind, number in self.counts.items() if kind.is_note)


def _files(args: argparse.Namespace) -> tuple[str, str]:
    """Annotation file and image folder."""
    if bool(args.dataset) == bool(args.json):
        raise ValueError("Name a data set, or give --json FILE --images DIR; one of the two.")
    if args.json:
        if not args.images:
            raise ValueError("--json FILE needs --images DIR: the folder that its file names are below.")
        return args.json, args.images
    if args.dataset not in DatasetCatalog.list():
        raise ValueError(
            f'There is no data set "{args.dataset}"; this project has: {", ".join(DATASETS)}. '
            "For files of your own: --json FILE --images DIR."
        )
    metadata = MetadataCatalog.get(args.dataset)
    if not hasattr(metadata, "json_file"):
        raise ValueError(f'Data set "{args.dataset}" has no annotation file in COCO or LVIS format to check.')
    for path in (metadata.json_file, metadata.image_root):
        if not os.path.exists(path):
            missing = f'Data set "{args.dataset}" needs {path}, which is not there.'
            raise FileNotFoundError(f"{missing} {_remedy(path, args)}")
    return metadata.json_file, metadata.image_root


def _remedy(path: str, args: argparse.Namespace) -> str:
    if path == MetadataCatalog.get(args.dataset).json_file:
        return remedy(args.dataset)
    return f"Put its images there, or set DETECTRON2_DATASETS (now {datasets_root()}) to where they are."


def _refuse_to_overwrite(json_file: str, args: argparse.Namespace) -> None:
    for path in (json_file, args.vocabulary):
        if args.report and path and os.path.realpath(args.report) == os.path.realpath(path):
            raise ValueError(f"--report {args.report} would overwrite what is read; name another file.")


@contextmanager
def _report(path: str | None) -> Iterator[Callable[[Defect], Any]]:
    """Gives a function that writes a defect into the report. The file appears when all is checked, or not at all."""
    if path is None:
        yield lambda _: None
        return
    with atomic_file(path) as part:
        try:
            with open(part, "w") as file:
                yield lambda defect: file.write(json.dumps(defect.as_dict()) + "\n")
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _summary(check: DatasetCheck, findings: Findings) -> str:
    """Counts by kind, and the first of each in full."""
    read = ", ".join(f"{number:,} {what}" for what, number in check.counts.items())
    lines = [f"{check.json_file}: {read}"]
    if check.not_trained:
        told = ", ".join(f"{number:,} {what}" for what, number in check.not_trained.items())
        lines.append(f"Not trained on, of the annotations: {told}.")
    if findings.counts:
        rows = [(kind, findings.counts[kind], "note" if kind.is_note else "defect") for kind in _in_order(findings)]
        lines += ["", tabulate(rows, headers=("what", "number", ""), tablefmt="github", intfmt=",")]
    for kind in _in_order(findings):
        first = [defect for defect in findings.first if defect.kind == kind]
        if first:
            lines += ["", f"{kind} ({len(first):,} of {findings.counts[kind]:,}):", *map(str, first)]
    return "\n".join([*lines, ""])


def _in_order(findings: Findings) -> list[Kind]:
    return [kind for kind in Kind if findings.counts[kind]]


def _verdict(findings: Findings, report: str | None) -> str:
    found = f"{findings.num_defects:,} defects" if findings.num_defects else "No defects"
    notes = f", {findings.num_notes:,} notes" if findings.num_notes else ""
    where = f" All of them: {report}" if report else " --report FILE writes all of them." if findings.counts else ""
    return f"{found}{notes}.{where}"
