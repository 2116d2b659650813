"""The paper's way: proposals of a detector that saw base boxes only, embedded once, teach another detector."""

import json
from pathlib import Path

import pytest
import torch

from dk_detr.commands.build_embedding_bank.builder import build_bank
from dk_detr.commands.build_embedding_bank.settings import BankRequest, Selection
from dk_detr.engine import setup_cfg
from dk_detr.language import load_clip
from tests.projects.vild.vild_fixtures import CONFIGS, SHRUNK, mini
from tests.run_fixtures import World, own_log_handlers, world_with_masks

STEPS = {**SHRUNK, "SOLVER__MAX_ITER": 2, "DATASETS__TEST": ()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = world_with_masks(tmp_path_factory.mktemp("world"))
    with torch.random.fork_rng(devices=[]):
        clip = load_clip("open_clip", str(world.root / "clip.json"), "")
    torch.save(clip.model.state_dict(), world.root / "clip.pt")
    return world


def bank_of(world: World, output: Path, weights: Path) -> Path:
    keys = {**SHRUNK, "MODEL__CLIP__WEIGHTS": world.root / "clip.pt", "MODEL__WEIGHTS": weights}
    with world.in_use(), own_log_handlers():
        cfg = setup_cfg(mini("ViLD_text"), world.options(**keys))
        build_bank(cfg, BankRequest(str(output), selection=Selection(regions=6), images_per_shard=4))
    return output


@pytest.mark.parametrize("name", ["mini/ViLD", "ViLD_ensemble_R50"])
def test_proposals_of_vild_text_make_the_bank_that_teaches_the_others(name: str, world: World, tmp_path: Path) -> None:
    first = world.train(tmp_path / "text", config=mini("ViLD_text"), **STEPS)
    bank = bank_of(world, tmp_path / "bank", first / "model_final.pth")
    teacher = {"MODEL__TEACHER__NAME": "EmbeddingBank", "MODEL__TEACHER__BANK": bank}
    clip = {"MODEL__CLIP__WEIGHTS": world.root / "clip.pt", "MODEL__KD__NUM_SLOTS": 5}
    run = world.train(tmp_path / "run", config=str(CONFIGS / f"{name}.yaml"), **{**STEPS, **teacher, **clip})
    metrics = json.loads((run / "metrics.json").read_text().splitlines()[0])
    assert metrics["loss_kd_embedding_l1"] > 0 and 0 < metrics["kd_regions"] <= 2 * 5
