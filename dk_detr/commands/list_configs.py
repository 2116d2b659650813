"""What tools/list_configs.py does: a table of all configs, from the comments at their heads.

A config begins with comments: what it is, then lines "Paper: …", "Published: …" (figures of the paper or its release),
"Ours: …" (figures of this project) and "Command: …", with FILE for the config. Paper and Command hold for all configs
that have it as their base, unless they say their own.

tools/list_configs.py loads this file by its path: importing the package takes longer than reading all configs. So this
module imports what builds detectors only where it measures.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate
from tqdm import tqdm

if TYPE_CHECKING:
    from dk_detr.benchmark.size import Size

FOLDERS = ("configs", "projects")
COMMAND = "python tools/train_net.py --config-file FILE"
INHERITED = ("Paper", "Command")
_FIELD = re.compile(r"# (Paper|Published|Ours|Command): (.*)")
_BASE = re.compile(r"""_BASE_:\s*["']?([^"'\s]+)""")
_WIDTHS = {"what it is": 44, "paper": 24, "published": 20, "ours": 20}  # of columns on a terminal


@dataclass(frozen=True)
class Entry:
    """A config as its head describes it.

    Attributes:
        file: its path. about: what it is. paper, published, ours: as said there; "" where nothing is.
        command: that trains or evaluates it.
    """

    file: str
    about: str
    paper: str
    published: str
    ours: str
    command: str

    def has(self, words: Sequence[str]) -> bool:
        """Whether every word is somewhere in the entry, in upper or lower case."""
        text = f"{self.file} {self.about} {self.paper} {self.published} {self.ours}".lower()
        return all(word.lower() in text for word in words)


def main(args: argparse.Namespace) -> None:
    """See tools/list_configs.py for the arguments."""
    try:
        entries = [entry for entry in all_entries(Path(args.root)) if entry.has(args.words)]
        if not entries:
            raise ValueError(f"No config has all of these words: {' '.join(args.words)}.")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(table(entries, measure(entries, Path(args.root)) if args.measure else None, args.markdown))


def all_entries(root: Path) -> list[Entry]:
    """Of all configs below `configs/` and `projects/` but those that others share (Base-*.yaml), by their paths."""
    files = sorted(file for folder in FOLDERS for file in (root / folder).rglob("*.yaml"))
    entries = [entry_of(file, root) for file in files if not file.name.startswith("Base-")]
    if not entries:
        raise FileNotFoundError(f"There are no configs below {root.absolute()}: start this in a clone of the project.")
    return entries


def entry_of(file: Path, root: Path) -> Entry:
    """Read the head of a config, and of its bases for what they have in common. Raises ValueError without a head."""
    about, fields = _head(file)
    if not about:
        raise ValueError(f"{file} does not begin with a comment that says what it is.")
    for base in _bases(file):
        fields = {**{key: value for key, value in _head(base)[1].items() if key in INHERITED}, **fields}
    path = os.path.relpath(file, root)
    command = fields.get("Command", COMMAND).replace("FILE", path)
    paper, published, ours = (fields.get(key, "").rstrip(".") for key in ("Paper", "Published", "Ours"))
    return Entry(path, about, paper, published, ours, command)


def _head(file: Path) -> tuple[str, dict[str, str]]:
    """The comments before the first key: what the config is, and its fields."""
    about, fields = [], {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        field = _FIELD.fullmatch(line)
        if field:
            fields[field[1]] = field[2]
        else:
            about.append(line.lstrip("# "))
    return " ".join(about), fields


def _bases(file: Path) -> Iterator[Path]:
    """The bases of a config, the nearest first."""
    found = _BASE.search(file.read_text(encoding="utf-8"))
    if found:
        base = file.parent / found[1]
        yield base
        yield from _bases(base)


def measure(entries: Sequence[Entry], root: Path) -> list[Size | None]:
    """Build each detector and count. Those that need files which are not here are named, with the reason."""
    import dk_detr  # noqa: F401  first, so that Detectron2 can be imported
    from dk_detr.benchmark.size import size_of

    os.chdir(root)  # where the paths in configs start
    logging.disable(logging.WARNING)  # each detector would say that its words are of no CLIP
    sizes: list[Size | None] = []
    for entry in tqdm(entries, unit="config"):
        try:
            sizes.append(size_of(entry.file))
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            sizes.append(None)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            tqdm.write(f"{entry.file} is not measured: {reason}", file=sys.stderr)
    return sizes


def table(entries: Sequence[Entry], sizes: Sequence[Size | None] | None = None, markdown: bool = False) -> str:
    """The entries as a table for a terminal, or in Markdown."""
    columns = {
        "config": [entry.file for entry in entries],
        "what it is": [entry.about for entry in entries],
        "paper": [entry.paper for entry in entries],
        "published": [entry.published for entry in entries],
        "ours": [entry.ours for entry in entries],
    }
    if sizes is not None:
        columns["M parameters"] = [f"{size.parameters:.1f}" if size else "–" for size in sizes]
        columns["GFLOPs"] = [f"{size.gflops:.1f}" if size else "–" for size in sizes]
    columns["command"] = [f"`{entry.command}`" if markdown else entry.command for entry in entries]
    if markdown:
        rows = [list(columns), ["---"] * len(columns), *zip(*columns.values())]
        return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    widths = [_WIDTHS.get(name) for name in columns]
    return tabulate(columns, headers="keys", tablefmt="simple", maxcolwidths=widths, disable_numparse=True)
