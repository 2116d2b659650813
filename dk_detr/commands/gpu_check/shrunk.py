"""Every config of configs/, shrunk to seconds: the same parts in the same order, thin, on the tiny world."""

from functools import cache
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dk_detr.commands.gpu_check.tiny_world import ROOT, SIDE, World
from dk_detr.engine.setup import setup_cfg
from dk_detr.modeling import QUERIES

FOLDER = ROOT / "configs"
CONFIGS = sorted(path for path in FOLDER.rglob("*.yaml") if not path.name.startswith("Base-"))
TWO_STEPS: dict[str, Any] = {
    "SOLVER__MAX_ITER": 2, "SOLVER__CHECKPOINT_PERIOD": 1,
    "MODEL__DETR__DECODER_LAYERS": 2,  # some positions need two
}  # fmt: skip
OF_THE_WORLD = {"DATASETS__TRAIN": ("lvis_v1_train_norare",), "DATASETS__TEST": ("lvis_v1_val",)}
ELSEWHERE = ("coco", "voc", "objects365")  # data sets that are not in the tiny world


@cache
def load(path: Path) -> CfgNode:
    """The config as the file has it."""
    return setup_cfg(str(path))


def two_steps(path: Path) -> dict[str, Any]:
    """Two iterations on the data sets of the config, or, where these are not here, on LVIS's; padded if it pads."""
    data, padded = load(path).DATASETS, {"MODEL__DETR__PADDED_SIZE": SIDE if load(path).MODEL.DETR.PADDED_SIZE else 0}
    if not any(name.startswith(ELSEWHERE) for name in (*data.TRAIN, *data.TEST)):
        return {**TWO_STEPS, **padded}
    return {**TWO_STEPS, **padded, **OF_THE_WORLD, "MODEL__VOCABULARY__OF_DATASETS": []}


def options_of(path: Path, world: World) -> dict[str, Any]:
    """There is no bank in the tiny world: tests/commands/build_embedding_bank trains with one."""
    cfg = load(path)
    teacher: dict[str, Any] = {"MODEL__TEACHER__NAME": "CLIPCrops"} if cfg.MODEL.TEACHER.BANK else {}
    if teacher and not QUERIES[cfg.MODEL.DETR.QUERIES].proposes:  # nobody else can teach it
        teacher = {"MODEL__TRAINING_EXTENSIONS": [], "MODEL__KD__TERMS": [], "MODEL__KD__QUERIES": "Auxiliary"}
    return {**teacher, **({"MODEL__CALIBRATION": world.root / "calibration.json"} if cfg.MODEL.CALIBRATION else {})}
