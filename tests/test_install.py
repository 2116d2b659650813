"""What pip installs: the package, its projects and configs, which run from any folder without a checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_house_rules import ROOT, house_files

CONFIG = 'PROJECTS: ["projects.ViLD.vild"]\nMODEL: {META_ARCHITECTURE: "ViLD", VILD: {FORM: "ViLD-image"}}\n'
USE = """
import inspect
import dk_detr
from dk_detr import zoo
from dk_detr.engine import setup_cfg
from detectron2.modeling import META_ARCH_REGISTRY
cfg = setup_cfg("mine.yaml")
for part in (dk_detr, META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)):
    print(inspect.getfile(part))
for name in ("dk_detr_R50", "ViLD/configs/mini/ViLD"):
    print(zoo.config_path(name))
    setup_cfg(name)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a copy of the checkout was installed into, without what pip notes about it."""
    source, target = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("installed")
    for path in house_files():
        if path.parts[0] in ("dk_detr", "projects", "configs", "setup.py"):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    alone = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", *alone, "--target", str(target), str(source)]
    subprocess.run(pip, check=True, cwd=source, timeout=100)
    return target


def _is_command(path: Path) -> bool:
    """A script of a project, which is started from a checkout as those of tools/ are."""
    return path.parts[0] == "projects" and len(path.parts) == 3


def test_every_module_of_the_package_and_its_projects_is_installed_and_nothing_else(installed: Path) -> None:
    found = {path.relative_to(installed) for path in installed.rglob("*") if path.suffix in (".py", ".cpp", ".yaml")}
    ours = {path for path in house_files() if path.parts[0] in ("dk_detr", "projects", "configs")}
    code = {path for path in ours if path.suffix in (".py", ".cpp") and not _is_command(path)}
    assert found == code | {Path("dk_detr/zoo") / path for path in ours if path.suffix == ".yaml"}
    assert Path("projects/ViLD/vild/detector.py") in found


def test_configs_have_names_and_call_for_installed_projects_from_any_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(CONFIG)
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    answer = subprocess.run(
        [sys.executable, "-c", USE], check=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    package, project, config, of_project = map(Path, answer.stdout.split())
    assert package == installed / "dk_detr/__init__.py"
    assert project == installed / "projects/ViLD/vild/detector.py"
    assert config == installed / "dk_detr/zoo/configs/dk_detr_R50.yaml"
    assert of_project == installed / "dk_detr/zoo/projects/ViLD/configs/mini/ViLD.yaml"
