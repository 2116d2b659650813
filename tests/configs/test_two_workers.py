"""Configs that train with two workers: DDP stops at the second step where no loss reaches a parameter.

That every config reaches all of its parameters is a part of the journeys in test_configs.py.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.trainer import Trainer
from tests.run_fixtures import REPOSITORY, World, state_of

MINI = REPOSITORY / "configs" / "mini"
CONFIGS = [  # with distillation: tests/tools/test_train_net.py
    "detr", "conditional_detr", "dab_detr", "dn_detr", "deformable_detr", "dab_deformable_detr",
    "dn_deformable_detr", "dino",
]  # fmt: skip
TWO_STEPS = {"SOLVER__MAX_ITER": 2, "MODEL__DETR__DECODER_LAYERS": 2, "DATASETS__TEST": ()}
READ_BY_NOBODY: dict[str, dict[str, Any]] = {
    "a stage of the backbone": {"MODEL__DETR__IN_FEATURES": ["res3"]},
    "level embeddings": {"MODEL__DETR__ENCODER_LAYERS": 0},
}


def train_in_a_worker(rank: int, root: Path, output: Path, config: str, options: dict[str, Any]) -> None:
    with patch.dict(os.environ, DK_DETR_TRACEBACK="1"):
        World(root).train(output, config=str(MINI / f"{config}.yaml"), **TWO_STEPS, **options)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_config_trains_with_two_workers(
    config: str, world: World, tmp_path: Path, in_two_workers: Callable[..., Any]
) -> None:
    in_two_workers(train_in_a_worker, world.root, tmp_path, config, {})
    assert (tmp_path / "model_final.pth").exists()


@pytest.mark.parametrize("options", READ_BY_NOBODY.values(), ids=READ_BY_NOBODY)
def test_what_nobody_reads_is_not_built(
    options: dict[str, Any], world: World, tmp_path: Path, in_two_workers: Callable[..., Any]
) -> None:
    in_two_workers(train_in_a_worker, world.root, tmp_path, "deformable_detr", options)
    names = state_of(tmp_path / "model_final.pth")["model"]
    surplus = "backbone.res4." if "MODEL__DETR__IN_FEATURES" in options else "encoder.level_embed"
    assert not [name for name in names if name.startswith(surplus)]


@pytest.mark.parametrize("options", READ_BY_NOBODY.values(), ids=READ_BY_NOBODY)
def test_weights_that_hold_what_nobody_reads_are_taken(options: dict[str, Any], world: World, tmp_path: Path) -> None:
    """Of checkpoints from before."""
    model = Trainer.build_model(setup_cfg(str(MINI / "deformable_detr.yaml"), world.options(**options)))
    surplus = {"backbone.res4.0.conv1.weight": torch.ones(4, 4, 1, 1), "encoder.level_embed": torch.ones(2, 64)}
    own = model.state_dict()
    surplus = {name: value for name, value in surplus.items() if name not in own}
    torch.save({"model": {**own, **surplus}}, tmp_path / "old.pth")
    for state in (model.train(), model.eval()):
        StrictCheckpointer(state).load(str(tmp_path / "old.pth"))
    assert surplus
