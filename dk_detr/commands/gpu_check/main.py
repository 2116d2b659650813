"""What tools/gpu_check.py does: the parts one after the other, each under its time limit, written down as they go."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

from dk_detr.commands.gpu_check.finding import Notebook, Settings
from dk_detr.commands.gpu_check.parts import PARTS, chosen
from dk_detr.commands.gpu_check.table import Record, read_record
from dk_detr.commands.gpu_check.tiny_world import ROOT
from dk_detr.engine.setup import one_clear_error

LEAST_SECONDS = 10.0  # that a part can begin in
DRY_RUN = 10.0  # times the limits: importing alone takes most of it on a busy core


def main(args: argparse.Namespace) -> None:
    """See tools/gpu_check.py for the arguments. Ends with status 1 where something does not work or misses its aim."""
    with one_clear_error():
        names, settings = chosen(args.parts), _settings(args)
        folder = Path(args.output)
        folder.mkdir(parents=True, exist_ok=True)
        record = read_record(folder, settings.device)
    end = time.monotonic() + 60 * args.minutes
    for name in names:
        print(f"{name} …", flush=True)
        _do(name, settings, record, end)
        record.write(folder)
    print(record.as_text())
    print(f"Written to {folder / 'gpu_check.json'} and {folder / 'gpu_check.md'}.")
    if not all(_is_fine(record, name) for name in names):
        sys.exit(1)


def _settings(args: argparse.Namespace) -> Settings:
    """Raises ValueError for what cannot be."""
    device = args.device or "cuda"
    if device not in ("cpu", "cuda"):
        raise ValueError(f"--device is {device}; choose cuda, or cpu for a dry run.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no GPU here. Add --device cpu for a dry run at tiny sizes.")
    if args.minutes <= 0:
        raise ValueError(f"--minutes must be positive, got {args.minutes:g}.")
    for option in ("photos", "mini"):
        given = getattr(args, option)
        if given and not Path(given).is_dir():
            raise ValueError(f"--{option}: there is no folder {given}.")
    photos, mini = (str(Path(path).resolve()) if path else "" for path in (args.photos, args.mini))
    return Settings(device, str(Path(args.output).resolve()), photos, mini)


def _do(name: str, settings: Settings, record: Record, end: float) -> None:
    """One part in a process of its own, until it is done, or its time is over, or that of the whole call."""
    part, start = PARTS[name], time.monotonic()
    limit = min(part.seconds * (DRY_RUN if settings.dry else 1.0), end - start)
    found = record.parts[name] = {"group": part.group, "ended": "", "seconds": 0.0, "findings": []}
    if limit < LEAST_SECONDS:
        found["ended"] = "not begun: the time of this call was over (--minutes)"
        return
    folder = Path(settings.output)
    notebook, log = Notebook(folder / f"{name}.jsonl"), folder / f"{name}.log"
    notebook.path.unlink(missing_ok=True)
    with log.open("w") as file:
        process = _start(name, settings, limit, notebook, file.fileno())
        try:
            while process.poll() is None and time.monotonic() < start + limit:
                time.sleep(0.2)
                if len(findings := notebook.read()) > len(found["findings"]):
                    found["findings"] = findings
                    record.write(folder)
            status = process.poll()
        finally:
            _end(process)
    found["findings"], found["seconds"] = notebook.read(), round(time.monotonic() - start, 1)
    notebook.path.unlink(missing_ok=True)
    if status is None:
        found["ended"] = f"ended after {limit:.0f} s"
    elif status:
        found["ended"] = f"its process ended with {status}: {_last_line(log)}"


def _start(name: str, settings: Settings, limit: float, notebook: Notebook, log: int) -> subprocess.Popen[bytes]:
    given = json.dumps({**asdict(settings), "seconds": limit})
    command = [sys.executable, "-m", "dk_detr.commands.gpu_check.work", name, given, str(notebook.path.resolve())]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process, and those that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1][:200]} (see {log.name})" if lines else "it said nothing"


def _is_fine(record: Record, name: str) -> bool:
    part = record.parts[name]
    return not part["ended"] and all(found["met"] is not False for found in part["findings"])
