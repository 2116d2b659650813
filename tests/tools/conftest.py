"""How tests call the tools: in this process, as from a shell."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs a tool, by its file name, with a command line; returns its exit status."""

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        try:
            runpy.run_path(str(TOOLS / name), run_name="__main__")
        except SystemExit as stopped:
            return int(stopped.code or 0)
        return 0

    return run
