"""What the doctor promises: it works where nothing else does, names what is missing, and gives the remedy."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dk_detr.commands import doctor
from dk_detr.data.datasets import DATASETS

TOOL = Path(__file__).resolve().parents[2] / "tools" / "doctor.py"


def find(findings: list[doctor.Finding], what: str) -> doctor.Finding:
    return next(finding for finding in findings if finding.what == what)


def make_mini_world(root: Path) -> None:
    """All files that the registered mini data sets name, with one image a split."""
    for name, dataset in DATASETS.items():
        if name.startswith("mini_lvis"):
            (root / dataset.json_file).parent.mkdir(parents=True, exist_ok=True)
            (root / dataset.json_file).write_text("{}")
    for folder in ("train", "val", "test", "captions"):
        (root / "mini_lvis" / folder).mkdir()
        (root / "mini_lvis" / folder / "000001.jpg").write_text("an image")


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_an_environment_that_runs_the_tests_is_healthy() -> None:
    findings = doctor.examine()
    assert doctor.is_healthy(findings), doctor.report(findings)
    assert find(findings, "deformable attention").state == "ok"
    assert find(findings, "detectron2").seen.endswith(("source", "pure Python"))


def test_without_any_package_the_report_is_whole_and_the_status_one() -> None:
    command = [sys.executable, "-S", "-E", str(TOOL), "--json"]  # -S: no site-packages
    answer = subprocess.run(command, check=False, capture_output=True, text=True)
    findings = [doctor.Finding(**finding) for finding in json.loads(answer.stdout)]
    assert answer.returncode == 1
    assert find(findings, "python").state == "ok"
    assert find(findings, "torch").state == "fault"
    assert "dk_detr" in [finding.what for finding in findings if finding.state == "fault"]
    assert find(findings, "mini_lvis").section.startswith("Data sets")


def test_every_fault_has_a_remedy_in_the_report() -> None:
    fault = doctor.Finding("Packages", "torchvision", "fault", "not installed", "pip install torchvision")
    text = doctor.report([doctor.Finding("Packages", "torch", "ok", "2.13"), fault])
    assert text.index("fault    torchvision  not installed") < text.index("-> pip install torchvision")
    assert text.endswith("Essential and broken: 1; see the lines below them.")
    assert not doctor.is_healthy([fault])


def test_a_check_that_breaks_off_is_a_fault_and_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_moon() -> Iterator[doctor.Finding]:
        raise OSError("too far")

    monkeypatch.setattr(doctor, "CHECKS", (check_moon, doctor.check_python))
    findings = doctor.examine()
    assert find(findings, "moon").state == "fault" and "too far" in find(findings, "moon").seen
    assert find(findings, "python").state == "ok"


def test_an_absent_data_set_comes_with_the_command_that_gets_it(datasets: Path) -> None:
    finding = find(list(doctor.check_datasets()), "mini_lvis")
    assert finding.state == "missing"
    assert finding.mend == f"python tools/make_mini_lvis.py --output {datasets}/mini_lvis"


def test_the_mini_world_as_registered_is_found(datasets: Path) -> None:
    make_mini_world(datasets)
    assert find(list(doctor.check_datasets()), "mini_lvis").state == "ok"


@pytest.mark.parametrize("lost", ["mini_lvis/annotations/mini_lvis_val.json", "mini_lvis/test/000001.jpg"])
def test_an_incomplete_data_set_is_said_to_be_incomplete(lost: str, datasets: Path) -> None:
    make_mini_world(datasets)
    (datasets / lost).unlink()
    finding = find(list(doctor.check_datasets()), "mini_lvis")
    assert finding.state == "missing"
    assert finding.seen == f"incomplete, without {lost.removesuffix('/000001.jpg')}"


@pytest.mark.parametrize("place", [".cache/clip/ViT-B-32.pt", ".cache/huggingface/hub/{repo}/snapshots/1/model"])
def test_clip_is_found_in_either_cache(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / place.format(repo="models--timm--vit_base_patch32_clip_224.openai")
    path.parent.mkdir(parents=True)
    path.write_text("weights")
    assert find(list(doctor.check_weights()), "CLIP ViT-B/32 (OpenAI)").state == "ok"
