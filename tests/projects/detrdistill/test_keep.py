"""SOLVER.KEEP "distillation": the start of a fine-tuning teaches, and what it takes for objects stays objects."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dk_detr.engine import setup_cfg
from dk_detr.structures import Targets
from projects.DETRDistill.detrdistill.objects import TeachersObjects, objects_from_config
from tests.keep_fixtures import few_labels, trained
from tests.projects.detrdistill.distill_fixtures import settings
from tests.run_fixtures import MINI, REPOSITORY, World, assert_same_training, state_of

BASE = str(REPOSITORY / "configs" / "mini" / "Base-keep.yaml")
KEEP = {"SOLVER__KEEP": ["distillation"], "DATASETS__KEEP": ("mini_lvis_val",)}


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(world, tmp_path_factory.mktemp("start"))


def test_the_start_teaches_and_the_run_resumes_from_its_own_config(world: World, start: Path, tmp_path: Path) -> None:
    options = {**few_labels(world, tmp_path), **KEEP, "MODEL__WEIGHTS": start, "SOLVER__CHECKPOINT_PERIOD": 1}
    run = world.train(tmp_path / "run", config=BASE, **options)
    losses = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    assert any("loss_dd_query_embeddings" in line for line in losses)
    assert not [name for name in state_of(run / "model_final.pth")["model"] if "teacher" in name]

    resumed = tmp_path / "resumed"
    resumed.mkdir()
    for name in ("model_0000000.pth", "custom_vocabulary.npz", "before.json"):
        (resumed / name).write_bytes((run / name).read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    own = run / "config.yaml"
    with world.in_use():
        cfg = setup_cfg(str(own))
    assert cfg.MODEL.TEACHER_DETECTOR.CONFIG == "self" and cfg.MODEL.TEACHER_DETECTOR.WEIGHTS == str(start)
    assert cfg.MODEL.TRAINING_EXTENSIONS == ["DETRDistill"]
    world.train(resumed, config=str(own), resume=True, **options)
    assert_same_training(resumed / "model_final.pth", run / "model_final.pth")


def test_its_name_is_enough_and_the_run_says_which_projects_it_used(world: World) -> None:
    own = world.options(**KEEP, MODEL__WEIGHTS="start.pth")
    with world.in_use():
        alone, beside = (setup_cfg(MINI, [*own, *more]) for more in ([], ["PROJECTS", "['projects.ViLD.vild']"]))
    package = "projects.DETRDistill.detrdistill"
    assert alone.PROJECTS == [package] and beside.PROJECTS == ["projects.ViLD.vild", package]
    assert "DETRDistill" in alone.MODEL.TRAINING_EXTENSIONS and "VILD" in beside.MODEL


def test_terms_that_the_config_names_stay(world: World) -> None:
    own = {"MODEL__TRAINING_EXTENSIONS": ["DETRDistill"], "MODEL__DETRDISTILL__TERMS": ["fitnet"], **KEEP}
    with world.in_use():
        cfg = setup_cfg(BASE, world.options(**own, MODEL__WEIGHTS="start.pth"))
    assert cfg.MODEL.DETRDISTILL.TERMS == ["fitnet"] and cfg.MODEL.DETRDISTILL.PSEUDO_OBJECTS is None
    assert cfg.MODEL.TEACHER_DETECTOR.WEIGHTS == "start.pth"


# ---- what the teacher takes for objects ----


def asked(belief: float, labelled: torch.Tensor) -> Targets:
    """Of a teacher that is sure of two boxes, one of them twice, and unsure of a third."""
    boxes = torch.tensor([[[0.2, 0.2, 0.2, 0.2], [0.21, 0.2, 0.2, 0.2], [0.7, 0.7, 0.2, 0.2], [0.2, 0.7, 0.2, 0.2]]])
    teacher: Any = SimpleNamespace(
        detections=SimpleNamespace(boxes=boxes[None]), objectness=torch.tensor([[3.0, 2.0, 4.0, -2.0]])
    )
    targets = Targets((torch.zeros(len(labelled), dtype=torch.long),), (labelled,))
    inputs: Any = SimpleNamespace(targets=targets, images=SimpleNamespace(image_sizes=[(64, 64)]))
    return TeachersObjects(belief)(teacher, inputs)


def test_sure_boxes_are_objects_once() -> None:
    found = asked(0.5, torch.zeros(0, 4))
    assert sorted(found.boxes[0][:, 0].tolist()) == pytest.approx([0.2, 0.7]) and found.labels[0].tolist() == [0, 0]


def test_what_is_labelled_is_no_second_object() -> None:
    assert asked(0.5, torch.tensor([[0.7, 0.7, 0.2, 0.2]])).boxes[0][:, 0].tolist() == pytest.approx([0.2])


def test_a_belief_that_nothing_reaches_gives_no_object() -> None:
    assert asked(0.99, torch.zeros(0, 4)).counts == [0]


def test_bad_beliefs_are_refused() -> None:
    with pytest.raises(ValueError, match="PSEUDO_OBJECTS is above 0 and at most 1, or None for none, got 2.0"):
        objects_from_config(SimpleNamespace(PSEUDO_OBJECTS=2.0), proposes=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="asks the teacher's first stage what is an object"):
        objects_from_config(SimpleNamespace(PSEUDO_OBJECTS=0.5), proposes=False)  # type: ignore[arg-type]
    assert objects_from_config(settings(), proposes=True) is None
