"""What visitors look at first, beside the README: citation, changes, issue forms, the Dockerfile."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
DOCKERFILE = (ROOT / ".docker" / "Dockerfile").read_text()
VERSION = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text())


def instructions() -> list[tuple[str, str]]:
    """Of the Dockerfile: each instruction with what follows it, in one line."""
    lines = [line for line in DOCKERFILE.splitlines() if line.strip() and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in whole.splitlines()]


def test_the_citation_and_the_changes_are_of_this_version() -> None:
    assert VERSION
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == VERSION[1] and citation["cff-version"] == "1.2.0"
    assert {"title", "message", "authors", "license"} <= citation.keys()
    assert citation["preferred-citation"]["title"] in " ".join((ROOT / "README.md").read_text().split())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest and newest[1] == VERSION[1]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_issue_forms_are_whole(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    ids = [part["id"] for part in content["body"]]
    assert len(set(ids)) == len(ids) and all(part["attributes"]["label"] for part in content["body"])
    for tool in re.findall(r"tools/\w+\.py", form.read_text()):
        assert (ROOT / tool).is_file()


def test_a_bug_report_asks_for_the_doctor() -> None:
    bug = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    (doctor,) = [part for part in bug["body"] if "tools/doctor.py" in part["attributes"]["label"]]
    assert doctor["validations"]["required"]


def test_the_dockerfile_names_what_is_there_and_lets_one_choose_the_base() -> None:
    found = instructions()
    assert [name for name, _ in found] == ["ARG", "FROM", "RUN", "WORKDIR", "COPY", "RUN", "ENV", "CMD"]
    assert found[0][1].startswith("BASE=") and found[1][1] == "${BASE}"
    folder = dict(found)["WORKDIR"]
    assert f"PATH={folder}/.venv/bin:" in dict(found)["ENV"] and "/data" in dict(found)["ENV"]
    (target,) = [text.split()[1] for name, text in found if name == "RUN" and text.startswith("make ")]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "docker build -f .docker/Dockerfile" in DOCKERFILE
    for tool in re.findall(r"(?:tools|configs)/\w+\.(?:py|yaml)", DOCKERFILE):
        assert (ROOT / tool).is_file()


def test_the_image_takes_no_environment_data_or_runs_of_the_clone() -> None:
    left_out = (ROOT / ".docker" / "Dockerfile.dockerignore").read_text().split()
    assert {".venv", "datasets", "output", ".git"} <= set(left_out)
