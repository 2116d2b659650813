"""What a benchmark prints and writes."""

import datetime
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from tabulate import tabulate

from dk_detr.benchmark.measure import Measurement
from dk_detr.utils import atomic_write


@dataclass
class Report:
    """Tables of one run.

    Attributes:
        device: "cpu" or "cuda". setting: what was measured, in words. rows: one for each task and way. notes: lines
            below the table. compare: what ratios say: "times as fast" as the baseline, or "times the time" of it.
    """

    device: str
    setting: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    compare: Literal["times as fast", "times the time"] = "times as fast"

    def add(self, task: str, baseline: str, measured: Mapping[str, Measurement]) -> None:
        """One row for each way; `compare` says how its median stands to the baseline's."""
        for name, measurement in measured.items():
            ratio = measured[baseline].median / measurement.median
            self.rows.append(
                {
                    "task": task,
                    "way": name,
                    self.compare: ratio if self.compare == "times as fast" else 1 / ratio,
                    "median s": measurement.median,
                    "fastest s": min(measurement.seconds),
                    "slowest s": max(measurement.seconds),
                    "peak MiB": None if measurement.peak_bytes is None else measurement.peak_bytes / 2**20,
                }
            )

    @property
    def machine(self) -> str:
        """Processor, threads, versions."""
        if self.device == "cuda":
            where = torch.cuda.get_device_name()
        else:
            where = f"{_processor()}, {torch.get_num_threads()} threads"
        return f"{where}; torch {torch.__version__}, Python {platform.python_version()}"

    def as_text(self) -> str:
        """A table in Markdown, with where and when."""
        table = tabulate(self.rows, headers="keys", tablefmt="github", floatfmt=".3g", missingval="-")
        return "\n".join([f"{self.setting}", self.machine, _today(), "", table, *self.notes])

    def write_json(self, path: str | Path) -> None:
        """The same for programs."""
        content = {"setting": self.setting, "machine": self.machine, "date": _today(), "rows": self.rows}
        atomic_write(path, json.dumps({**content, "notes": self.notes}, indent=2))


def _today() -> str:
    return datetime.date.today().isoformat()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
