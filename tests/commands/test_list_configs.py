"""The table of configs, and the heads of the configs that it is made from."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from dk_detr.benchmark.size import Size
from dk_detr.commands.list_configs import all_entries, entry_of, table
from tests.run_fixtures import REPOSITORY

TOOL = str(REPOSITORY / "tools" / "list_configs.py")
ENTRIES = all_entries(REPOSITORY)
BY_FILE = {entry.file: entry for entry in ENTRIES}
FIGURES = [entry for entry in ENTRIES if entry.ours]


def run_tool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *arguments], check=False, capture_output=True, text=True)


def test_every_config_says_what_it_is_and_from_which_paper() -> None:
    """A config has both in its head, or the paper from its base; see dk_detr/commands/list_configs.py."""
    assert not [entry.file for entry in ENTRIES if not (entry.about and entry.paper)]
    for entry in ENTRIES:
        assert re.search(r"\(.* \d{4}\)|\(\d{4}\)|^none: ", entry.paper), f"{entry.file}: {entry.paper}"


def test_the_table_has_every_config_that_can_be_run_also_of_projects() -> None:
    files = [file for folder in ("configs", "projects") for file in (REPOSITORY / folder).rglob("*.yaml")]
    assert len(ENTRIES) == len([file for file in files if not file.name.startswith("Base-")])
    assert "projects/ViLD/configs/ViLD_R50.yaml" in BY_FILE and "configs/mini/ablations/semantic.yaml" in BY_FILE


def test_commands_name_a_tool_that_is_there_and_the_config() -> None:
    for entry in ENTRIES:
        if not entry.command.startswith("none: "):
            python, tool, *arguments = entry.command.split()
            assert python == "python" and (REPOSITORY / tool).is_file(), entry.command
            assert arguments[:2] == ["--config-file", entry.file]


@pytest.mark.parametrize("entry", FIGURES, ids=[entry.file for entry in FIGURES])
def test_our_figures_are_those_of_the_readme(entry) -> None:
    readme = (REPOSITORY / entry.file).parent / "README.md"
    figures = re.findall(r"\d+\.\d", entry.ours)
    assert figures and any(all(figure in line for figure in figures) for line in readme.read_text().splitlines())


# ---- heads ----


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_papers_and_commands_hold_for_what_is_built_on_a_config_and_figures_do_not(tmp_path: Path) -> None:
    write(tmp_path, "Base-a.yaml", "# Not to be run.\n# Paper: A (ICCV 2023).\n# Command: python a.py FILE\nX: 1\n")
    write(tmp_path, "b.yaml", '# B, over\n# two lines.\n# Published: 42.0 AP.\n_BASE_: "Base-a.yaml"\n')
    last = write(tmp_path, "c.yaml", "# C.\n# Paper: C (CVPR 2024).\n_BASE_: b.yaml\n# Ours: 1.0, not at the head.\n")
    first, second = entry_of(tmp_path / "b.yaml", tmp_path), entry_of(last, tmp_path)
    assert (first.about, first.paper, first.published) == ("B, over two lines.", "A (ICCV 2023)", "42.0 AP")
    assert first.command == "python a.py b.yaml"
    assert (second.paper, second.published, second.ours) == ("C (CVPR 2024)", "", "")


def test_a_config_without_a_head_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.yaml does not begin with a comment that says what it is"):
        entry_of(write(tmp_path, "a.yaml", "X: 1\n"), tmp_path)


# ---- table ----


def test_words_are_found_in_names_descriptions_and_papers_all_of_them() -> None:
    def found(*words: str) -> set[str]:
        return {entry.file for entry in ENTRIES if entry.has(words)}

    assert "configs/soit_R50.yaml" in found("MASKS") and "configs/detr_R50.yaml" not in found("masks")
    assert found("vild", "mini") == found("vild") & found("mini")
    assert "configs/detr_R50.yaml" in found("eccv 2020")


def test_markdown_has_a_row_for_each_config_and_its_size_where_it_is_known() -> None:
    some = [BY_FILE["configs/detr_R50.yaml"], BY_FILE["configs/dino_R50_4scale.yaml"]]
    lines = table(some, [Size(41.52, 79.1), None], markdown=True).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert "| 42.0 AP on COCO val |" in lines[2] and "| 41.5 | 79.1 | `python tools/train_net.py" in lines[2]
    assert "| – | – |" in lines[3]


def test_the_tool_lists_without_importing_the_package_and_refuses_what_it_does_not_find() -> None:
    answer = run_tool("masks", "soit_R50")
    assert answer.returncode == 0 and "configs/soit_R50.yaml" in answer.stdout
    run = f"import runpy, sys; sys.argv = ['', 'masks']; runpy.run_path({TOOL!r}, run_name='__main__')"
    command = [sys.executable, "-c", f"{run}; assert 'torch' not in sys.modules"]
    quick = subprocess.run(command, check=False, capture_output=True, text=True)
    assert quick.returncode == 0, quick.stderr
    answer = run_tool("masks", "nowhere")
    assert answer.returncode == 1 and answer.stderr == "error: No config has all of these words: masks nowhere.\n"
