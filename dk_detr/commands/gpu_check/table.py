"""The record of a check: one JSON, and the same as a table in Markdown."""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from dk_detr.utils import atomic_write

PACKAGES = ("triton", "detectron2", "open_clip_torch", "transformers")
LONGEST_NOTE = 160  # letters; the JSON has all
Found = Mapping[str, Any]


@dataclass
class Record:
    """Findings by part, with where and when.

    Attributes:
        device: "cpu" for a dry run. parts: of each part "group", "ended" (how), "seconds" and "findings".
    """

    device: str
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """gpu_check.json and gpu_check.md."""
        content = {"date": datetime.date.today().isoformat(), "machine": machine(self.device), "parts": self.parts}
        atomic_write(folder / "gpu_check.json", json.dumps({"device": self.device, **content}, indent=1))
        atomic_write(folder / "gpu_check.md", self.as_text() + "\n")

    def as_text(self) -> str:
        """The table in Markdown."""
        dry = ", dry run on a CPU at tiny sizes: its figures say nothing" if self.device == "cpu" else ""
        facts = "; ".join(f"{name} {value}" for name, value in machine(self.device).items())
        rows = [row for name, part in self.parts.items() for row in _rows(name, part)]
        table = tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)
        return f"# GPU check{dry}\n\n{datetime.date.today().isoformat()}; {facts}\n\n{table}"


def read_record(folder: Path, device: str) -> Record:
    """What an earlier call has found out here on the same machine; nothing where that was another."""
    path = folder / "gpu_check.json"
    if not path.is_file():
        return Record(device)
    content = json.loads(path.read_text())
    same = content["device"] == device and content["machine"] == machine(device)
    return Record(device, content["parts"] if same else {})


def machine(device: str) -> dict[str, str]:
    """Card and versions."""
    card = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    facts = {"card": card, "Python": platform.python_version(), "torch": torch.__version__}
    if device == "cuda":
        number, (major, minor) = torch.cuda.device_count(), torch.cuda.get_device_capability()
        facts |= {"cards": str(number), "capability": f"{major}.{minor}", "CUDA": str(torch.version.cuda)}
    return facts | {name: version for name in PACKAGES if (version := _version(name))}


def _version(package: str) -> str:
    for name in (package, f"pb1-{package}"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def _rows(name: str, part: Mapping[str, Any]) -> list[dict[str, str]]:
    findings: Sequence[Found] = part["findings"]
    alone = [found for found in findings if not (found["series"] and found["met"])]
    rows = [*_of_series(findings), *map(_row, alone)]
    if part["ended"]:
        rows.append(_row({"what": "the whole part", "figure": None, "aim": "", "met": False, "note": part["ended"]}))
    return [{"part": f"{part['group']}: {name}" if not number else "", **row} for number, row in enumerate(rows)]


def _of_series(findings: Sequence[Found]) -> Iterable[dict[str, str]]:
    for series in dict.fromkeys(found["series"] for found in findings if found["series"]):
        members = [found for found in findings if found["series"] == series]
        met = [found for found in members if found["met"]]
        figures = [found["figure"] for found in met if found["figure"] is not None]
        worst = f"{max(figures):.2g} at most" if figures else "-"
        aims = dict.fromkeys(found["aim"] for found in members if found["aim"])
        count = f"{len(met)} of {len(members)}"
        met_all = _in_words(len(met) == len(members))
        yield {"what": f"{series}: {count}", "figure": worst, "aim": ", ".join(aims), "met": met_all, "note": ""}


def _row(found: Found) -> dict[str, str]:
    figure = "-" if found["figure"] is None else f"{found['figure']:.4g} {found.get('unit', '')}".strip()
    row = {"what": found["what"], "figure": figure, "aim": found["aim"], "met": _in_words(found["met"])}
    return {key: text.replace("|", "\\|") for key, text in {**row, "note": found["note"][:LONGEST_NOTE]}.items()}


def _in_words(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "NO"
