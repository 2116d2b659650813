"""tools/gpu_check.py without a GPU: a dry run, and what becomes of parts that crash, hang or never begin."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.commands.gpu_check import main as gpu_check
from dk_detr.commands.gpu_check.finding import Finding, Notebook, Settings, at_least, at_most, missing
from dk_detr.commands.gpu_check.parts import PARTS, chosen
from dk_detr.commands.gpu_check.same_dice import SameDice
from dk_detr.commands.gpu_check.table import Record
from tests.run_fixtures import REPOSITORY

SCRIPT = REPOSITORY / "tools" / "gpu_check.py"


def test_a_dry_run_says_so_and_writes_what_it_found(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--device", "cpu", "--parts", "attention", "--output", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    findings = record["parts"]["attention"]["findings"]
    assert len(findings) >= 7 and all(found["met"] for found in findings)
    assert record["machine"]["torch"] == torch.__version__ and record["date"]
    table = (tmp_path / "gpu_check.md").read_text()
    assert "dry run on a CPU" in table.splitlines()[0] and "forward and backward in bfloat16" in table


PROGRAMS = {
    "crash": ("import os; os.abort()", r"its process ended with -6: it said nothing"),
    "hang": ("import time; time.sleep(60)", r"ended after 2 s"),
}


@pytest.mark.parametrize("how", PROGRAMS)
def test_a_part_that_ends_badly_keeps_what_it_found(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, said = PROGRAMS[how]

    def start(name: str, settings: Settings, limit: float, notebook: Notebook, log: int) -> Any:
        notebook(Finding("something", 3.0))
        return subprocess.Popen([sys.executable, "-c", program], start_new_session=True)

    monkeypatch.setattr(gpu_check, "_start", start)
    monkeypatch.setattr(gpu_check, "LEAST_SECONDS", 0.5)
    record, begun = Record("cpu"), time.monotonic()
    gpu_check._do("attention", Settings("cpu", str(tmp_path)), record, begun + 2)
    part = record.parts["attention"]
    assert [found["figure"] for found in part["findings"]] == [3.0]
    assert time.monotonic() < begun + 30
    assert re.match(said, part["ended"]) and part["ended"] in record.as_text()


def test_a_part_without_time_is_named_and_not_begun(tmp_path: Path) -> None:
    record = Record("cpu")
    gpu_check._do("photos", Settings("cpu", str(tmp_path)), record, time.monotonic())
    assert "not begun" in record.parts["photos"]["ended"] and not gpu_check._is_fine(record, "photos")


def test_parts_are_chosen_by_group_and_by_name() -> None:
    assert chosen([]) == list(PARTS) and chosen(["clip", "attention"]) == ["attention", "clip"]
    assert chosen(["useful"]) == ["photos", "mini-world"]
    with pytest.raises(ValueError, match='"quick"; choose from correct'):
        chosen(["quick"])


def test_without_a_card_it_asks_for_a_dry_run(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a card")
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and done.stderr == (
        "error: torch finds no GPU here. Add --device cpu for a dry run at tiny sizes.\n"
    )


def test_the_table_names_what_misses_and_what_is_missing() -> None:
    met = [at_most(1e-3, f"config {number}", 1e-5, series="losses") for number in range(3)]
    told = [*met, at_most(1e-3, "config 3", 0.5, series="losses"), at_least(2, "speed", 2.5), missing("cards", "one")]
    notebook = [vars(finding) for finding in told]
    text = Record("cpu", {"configs": {"group": "correct", "ended": "", "findings": notebook}}).as_text()
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith("|")][2:]
    assert rows == [
        ["losses: 3 of 4", "1e-05 at most", "≤ 0.001", "NO", ""],
        ["config 3", "0.5", "≤ 0.001", "NO", ""],
        ["speed", "2.5", "≥ 2", "yes", ""],
        ["cards", "-", "", "", "one"],
    ]
    assert at_most(1, "no number", float("nan")).met is False


def test_a_notebook_is_read_without_its_unfinished_line(tmp_path: Path) -> None:
    notebook = Notebook(tmp_path / "notes")
    notebook(Finding("whole"))
    with notebook.path.open("a") as file:
        file.write('{"what": "ha')
    assert [found["what"] for found in notebook.read()] == ["whole"]


def test_dice_fall_as_they_do_on_the_cpu() -> None:
    def draw() -> list[torch.Tensor]:
        torch.manual_seed(0)
        return [torch.rand(3), torch.randn_like(torch.zeros(2)), torch.zeros(4).uniform_(), torch.randperm(5)]

    wanted = draw()
    with SameDice():
        assert all(torch.equal(a, b) for a, b in zip(draw(), wanted))
        assert torch.rand(3, device="meta").device.type == "meta"
