"""Configs of DETRDistill, and shrunk teachers with random weights for them."""

from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from dk_detr.commands.gpu_check.shrunk import two_steps
from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from tests.model_fixtures import fixed_seed
from tests.run_fixtures import REPOSITORY, World

CONFIGS = REPOSITORY / "projects" / "DETRDistill" / "configs"
DEFORMABLE, OPEN = CONFIGS / "mini" / "deformable.yaml", CONFIGS / "mini" / "dk_detr.yaml"
KEY = "MODEL__TEACHER_DETECTOR__"


@cache
def load(path: Path) -> CfgNode:
    """A config as its file has it."""
    return setup_cfg(str(path))


def teacher_of(path: Path, world: World, folder: Path, **more: Any) -> dict[str, Any]:
    """The teacher of a config, shrunk, with twice the layers of its student: the keys that name it."""
    config = REPOSITORY / load(path).MODEL.TEACHER_DETECTOR.CONFIG
    deep = {**two_steps(config), "MODEL__DETR__DECODER_LAYERS": 4, **more}
    return saved_teacher(setup_cfg(str(config), world.options(**deep)), folder)


def saved_teacher(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    """A detector of this config with random weights: the keys that name it as a teacher."""
    folder.mkdir(exist_ok=True)
    (folder / "teacher.yaml").write_text(cfg.dump())
    with fixed_seed(8):
        StrictCheckpointer(build_model(cfg), save_dir=str(folder)).save("teacher")
    return {f"{KEY}CONFIG": folder / "teacher.yaml", f"{KEY}WEIGHTS": folder / "teacher.pth"}
