"""tools/web_demo.py: it serves the page to this machine alone, and says in a line why it cannot."""

import importlib.util
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TOOL = "web_demo.py"


def test_the_page_is_served_until_it_is_ended_and_pictures_end_with_it(
    tiny_files: Path, run_tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    pytest.importorskip("gradio", reason="Gradio is not installed: pip install -e '.[demo]'")
    from dk_detr.commands.web_demo.page import Page

    folders: list[Path] = []

    def visit(page: Page) -> None:
        with urllib.request.urlopen(str(page.blocks.local_url)) as answer:
            assert b"DK-DETR" in answer.read()
        folders.append(Path(page.blocks.GRADIO_CACHE))
        assert folders[0].is_dir()
        page.close()

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # so that what the tool sets does not stay
    monkeypatch.setattr(Page, "wait", visit)
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        port = some.getsockname()[1]
    assert run_tool(TOOL, tiny_files / "run" / "model_final.pth", "--port", port) == 0
    printed = capsys.readouterr().out
    assert f"Open http://127.0.0.1:{port}" in printed
    assert "password" not in printed, "nobody else can open it"
    assert not folders[0].exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port 0 must be between 1 and 65535"),
        (["--max-megabytes", "0"], "--max-megabytes 0.0 must be above 0"),
        ([], "nowhere.pth"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], message: str, run_tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert run_tool(TOOL, "nowhere.pth", *arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_without_gradio_it_says_how_to_install_it(
    run_tool: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert run_tool(TOOL, "nowhere.pth") == 1
    assert "needs Gradio: pip install -e '.[demo]'" in capsys.readouterr().err
