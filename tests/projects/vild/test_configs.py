"""Every config of ViLD: a journey through each, shrunk; what they say of one another; how a config calls a project."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from dk_detr.engine import setup_cfg
from dk_detr.engine.optimizer import ClippedSGD, build_optimizer
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.run_folder import read_results
from tests.projects.vild.vild_fixtures import (
    CONFIGS,
    NAMES,
    NUM_DETECTIONS,
    SHRUNK,
    mini,
    shrunk_cfg,
)
from tests.run_fixtures import SIDE, World, assert_same_training, world_with_masks

ALL = sorted(path for path in CONFIGS.rglob("*.yaml") if not path.name.startswith("Base-"))
IDS = [str(path.relative_to(CONFIGS)) for path in ALL]
every_config = pytest.mark.parametrize("path", ALL, ids=IDS)
TWO_STEPS: dict[str, Any] = {**SHRUNK, "SOLVER__MAX_ITER": 2, "SOLVER__CHECKPOINT_PERIOD": 1}
PUBLISHED = {
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.CONV_DIMS": [-1, -1],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.SMOOTH_L1_BETA": pytest.approx(1 / 9, abs=1e-4),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.NUM_CONV": 4,
    "MODEL.ROI_BOX_HEAD.CONV_DIM": 256,
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.NORM": "SyncBN",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 1.0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": True,
    "MODEL.VILD.TEMPERATURE": 0.01,
    "MODEL.VILD.HOME_WEIGHT": 2 / 3,
    "MODEL.VILD.OBJECTNESS": 0.0,
    "MODEL.KD.EMBEDDING_L1.WEIGHT": 0.5,
    "MODEL.KD.NUM_SLOTS": 300,
    "MODEL.TEACHER.NAME": "EmbeddingBank",
    "MODEL.TEACHER.BANK_REGIONS": 300,
    "MODEL.TEACHER.CROP_SCALES": [1.0, 1.5],
    "MODEL.VOCABULARY.PROMPT": "vild",
    "INPUT.AUGMENTATION": "LargeScaleJitter",
    "INPUT.JITTER_SIZE": 1024,
    "INPUT.JITTER_SCALE": [0.1, 2.0],
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.IMS_PER_BATCH": 256,
    "SOLVER.BASE_LR": 0.32,
    "SOLVER.MAX_ITER": 180000,
    "SOLVER.STEPS": (162000, 171000),
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 0.01,
    "SOLVER.WEIGHT_DECAY": 4e-5,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "DATASETS.TRAIN": ("lvis_v1_train_norare",),
    "DATASETS.TEST": ("lvis_v1_val",),
    "TEST.DETECTIONS_PER_IMAGE": 300,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@every_config
def test_every_config_builds_steps_scores_boxes_and_masks_and_answers(path: Path, world: World, tmp_path: Path) -> None:
    run = world.train(tmp_path, config=str(path), **TWO_STEPS)
    results = read_results(str(run))
    assert results is not None and results["iteration"] == 2
    assert "No loss reaches" not in (run / "log.txt").read_text()  # several workers would wait for its gradient
    assert {"AP", "APr", "APc", "APf"} <= results["results"]["bbox"].keys() & results["results"]["segm"].keys()
    found = Predictor(setup_cfg(str(run / "config.yaml"), ["MODEL.WEIGHTS", str(run / "model_final.pth")]))(
        world_image(world)
    )
    assert len(found) == NUM_DETECTIONS and found.pred_masks.shape[1:] == found.image_size == (SIDE, SIDE)


def world_image(world: World) -> str:
    return str(world.root / "mini_lvis" / "train" / "000001.png")


@pytest.mark.parametrize("name", ["mini/ViLD_ensemble", "ViLD_ensemble_R50"])
def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(name: str, world: World, tmp_path: Path) -> None:
    steps = {**TWO_STEPS, "DATASETS__TEST": ()}
    config = str(CONFIGS / f"{name}.yaml")
    whole = world.train(tmp_path / "whole", config=config, **steps)
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    (resumed / "model_0000000.pth").write_bytes((whole / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    world.train(resumed, config=config, resume=True, **steps)
    assert_same_training(resumed / "model_final.pth", whole / "model_final.pth")


def test_the_recall_of_the_first_stage_is_reported_where_it_is_asked_for(world: World, tmp_path: Path) -> None:
    asked = {**TWO_STEPS, "TEST__ALSO_RECALL_OF": ["proposals"]}
    results = read_results(str(world.train(tmp_path, config=mini("ViLD_text"), **asked)))
    assert results is not None and {"AR@100", "AR@100-novel"} <= results["results"]["proposals"].keys()


def test_evaluation_alone_gives_the_numbers_of_training(world: World, tmp_path: Path) -> None:
    run = world.train(tmp_path / "run", config=mini("ViLD_ensemble"), **TWO_STEPS)
    alone = world.train(
        tmp_path / "alone", config=mini("ViLD_ensemble"), eval_only=True,
        MODEL__WEIGHTS=run / "model_final.pth", **{k: v for k, v in TWO_STEPS.items() if "WEIGHTS" not in k},
    )  # fmt: skip
    first, second = (read_results(str(folder)) for folder in (run, alone))
    assert first is not None and second is not None
    assert str(first["results"]) == str(second["results"])  # nan is nan


def test_lvis_is_trained_by_sgd_with_momentum(world: World) -> None:
    cfg = shrunk_cfg(world, str(CONFIGS / "ViLD_text_R50.yaml"), SOLVER__BASE_LR=0.32)
    optimizer = build_optimizer(cfg, build_model(cfg))
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.max_norm == 0
    assert {(group["lr"], group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.32, 0.9, False)
    }
    assert {group["weight_decay"] for group in optimizer.param_groups} == {4e-5, 0.0}


def test_a_clipped_gradient_moves_sgd_by_its_rate(world: World) -> None:
    weight = torch.nn.Parameter(torch.tensor([0.0, 0.0]))
    weight.grad = torch.tensor([30.0, 40.0])
    ClippedSGD([{"params": [weight]}], max_norm=5.0, lr=0.1).step()
    torch.testing.assert_close(weight.detach(), torch.tensor([-0.3, -0.4]))


def test_an_optimizer_that_is_not_there_is_refused_by_key(world: World) -> None:
    cfg = shrunk_cfg(world, mini("ViLD_text"), SOLVER__OPTIMIZER="Lion")
    with pytest.raises(ValueError, match='SOLVER.OPTIMIZER is "Lion"; choose one of AdamW, SGD'):
        build_optimizer(cfg, torch.nn.Linear(1, 1))


# ---- what they say ----


def flat(node: CfgNode, prefix: str = "") -> dict[str, Any]:
    """Leaves of a config by their dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in node.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, CfgNode) else {prefix + key: value}
    return leaves


def differences(one: str, other: str) -> set[str]:
    first, second = (flat(setup_cfg(str(CONFIGS / f"{name}.yaml"))) for name in (one, other))
    return {key for key in first if first[key] != second[key]}


def test_each_form_has_a_config_for_lvis_and_for_the_mini_world() -> None:
    wanted = {f"{name}_R50.yaml" for name in NAMES} | {f"mini/{name}.yaml" for name in NAMES}
    assert set(IDS) == wanted


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize("kind", ["{}_R50", "mini/{}"])
def test_the_forms_differ_in_form_and_teacher_only(name: str, kind: str) -> None:
    changed = differences(kind.format("ViLD_text"), kind.format(name))
    assert changed == {"MODEL.VILD.FORM", "MODEL.TRAINING_EXTENSIONS", "MODEL.KD.TERMS", "OUTPUT_DIR"}


def test_the_published_settings_are_kept() -> None:
    found = flat(setup_cfg(str(CONFIGS / "ViLD_ensemble_R50.yaml")))
    assert {key: found[key] for key in PUBLISHED} == PUBLISHED


@pytest.mark.parametrize("key", ["SOLVER.", "INPUT.", "DATASETS.", "MODEL.CLIP.", "TEST.", "SEED"])
def test_the_mini_world_is_that_of_dk_detr(key: str) -> None:
    """Data, schedule and teacher are the same: the table compares detectors."""
    ours = flat(setup_cfg(mini("ViLD")))
    theirs = flat(setup_cfg(str(CONFIGS.parents[2] / "configs" / "mini" / "dk_detr.yaml")))
    assert {k: ours[k] for k in theirs if k.startswith(key)} == {k: v for k, v in theirs.items() if k.startswith(key)}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_file_says_what_it_is_in_its_first_line(path: Path) -> None:
    assert re.match(r"# \S.*[.,a-z]$", path.read_text().splitlines()[0])


def test_every_config_is_in_the_table_of_the_readme() -> None:
    table = (CONFIGS.parent / "README.md").read_text()
    assert not [name for name in IDS if f"`{name}`" not in table]


# ---- how a config calls a project ----


def test_a_project_that_is_not_there_is_missed_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('PROJECTS: ["projects.ViLT.vilt"]\n')
    with pytest.raises(ValueError, match=r'PROJECTS names "projects.ViLT.vilt", but there is no package projects.ViLT'):
        setup_cfg(str(tmp_path / "mine.yaml"))


def test_without_its_project_a_key_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text('MODEL:\n  VILD:\n    FORM: "ViLD"\n')
    with pytest.raises(ValueError, match="no config key MODEL.VILD"):
        setup_cfg(str(tmp_path / "mine.yaml"))


def test_a_misspelt_key_of_a_project_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no config key MODEL.VILD.FROM\. Did you mean MODEL.VILD.FORM\?"):
        setup_cfg(mini("ViLD"), ["MODEL.VILD.FROM", "ViLD"])


def test_a_calibration_of_a_sigmoid_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="MODEL.CALIBRATION is for a sigmoid, and ViLD has a softmax: set"):
        build_model(shrunk_cfg(world, mini(NAMES[0]), MODEL__CALIBRATION="a.json"))
