"""Configs of RegionCLIP shrunk to seconds: a CLIP ResNet of one block a stage, and a random localizer."""

from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from tests.language.test_region_tower import RESNET
from tests.model_fixtures import fixed_seed
from tests.run_fixtures import MINI, REPOSITORY, SIDE, WIDTH, World, write_json

CONFIGS = REPOSITORY / "projects" / "RegionCLIP" / "configs"
KEY = "MODEL__REGIONCLIP__LOCALIZER__"
SHRUNK: dict[str, Any] = {
    "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 8, "TEST__DETECTIONS_PER_IMAGE": 10, "SOLVER__MAX_ITER": 2,
    "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__BASE_LR": 0.0001, "MODEL__ROI_MASK_HEAD__CONV_DIM": 8,
    "MODEL__ROI_HEADS__SCORE_THRESH_TEST": 0.0, "DATASETS__TRAIN": ("lvis_v1_train_norare",),
    "DATASETS__TEST": ("lvis_v1_val",), "INPUT__MIN_SIZE_TRAIN": (SIDE,),
}  # fmt: skip
assert WIDTH == 16


def config(name: str) -> str:
    return str(CONFIGS / f"{name}.yaml")


def proposal_network(world: World, folder: Path, name: str = "localizer_lvis_R50_FPN") -> dict[str, Any]:
    """The keys of a shrunk localizer with random weights, which another detector's file holds."""
    small = {
        "MODEL.DEVICE": "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS": 8, "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 4, "MODEL.FPN.OUT_CHANNELS": 8, "MODEL.RPN.POST_NMS_TOPK_TEST": 12,
    }  # fmt: skip
    cfg = setup_cfg(config(name), [str(word) for pair in small.items() for word in pair])
    return saved(cfg, folder)


def first_stage(world: World, folder: Path) -> dict[str, Any]:
    """The keys of a localizer that is the first stage of DK-DETR."""
    return saved(setup_cfg(MINI, world.options(MODEL__TRAINING_EXTENSIONS=[], MODEL__KD__TERMS=[])), folder)


def saved(cfg: CfgNode, folder: Path) -> dict[str, Any]:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "localizer.yaml").write_text(cfg.dump())
    with fixed_seed(3):
        StrictCheckpointer(build_model(cfg), save_dir=str(folder)).save("localizer")
    return {f"{KEY}CONFIG": folder / "localizer.yaml", f"{KEY}WEIGHTS": folder / "localizer.pth", f"{KEY}OPTS": []}


def options(world: World, **more: Any) -> dict[str, Any]:
    clip = write_json(world.root / "resnet.json", RESNET)
    return {**SHRUNK, "MODEL__CLIP__ARCHITECTURE": clip, **more}


def tiny(world: World, name: str, **more: Any) -> Any:
    """An untrained detector in evaluation mode, the same on every call."""
    with fixed_seed():
        return build_model(setup_cfg(config(name), world.options(**options(world, **more)))).eval()
