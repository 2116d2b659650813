"""Weights bring their calibration along: a detector detects with the numbers that it was trained with."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.setup import for_inference
from tests.calibration_fixtures import clip_of, make_calibrated_world
from tests.model_fixtures import stir
from tests.run_fixtures import MINI, SIDE, World, state_of, write_json

KEY = "classifier.calibration"
NUMBERS = [0.0625, 0.875]  # exact in floats
PICTURE = torch.arange(3 * SIDE * SIDE).view(3, SIDE, SIDE).remainder(251).float()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_calibrated_world(tmp_path_factory.mktemp("world"))


def file_of(world: World, folder: Path, numbers: list[float] = NUMBERS, **more: Any) -> str:
    temperature, offset = numbers
    teacher = {"probe": clip_of(world).probe, "width": 16, "crop_scales": [1.0, 1.5], **more}
    sigmoid = {"temperature": temperature, "offset": offset}
    content = {"format": "dk_detr calibration", "version": 1, "teacher": teacher}
    content |= {"classifier": sigmoid, "semantic": sigmoid}
    return write_json(folder / f"{offset}.json", content)


def config(world: World, calibration: str = "", **more: Any) -> Any:
    files = {"MODEL__CLIP__WEIGHTS": world.root / "clip.pt", "MODEL__CALIBRATION": calibration or "''"}
    return setup_cfg(MINI, world.options(**{**files, **more}))


@pytest.fixture
def trained(world: World, tmp_path: Path) -> tuple[Any, Path]:
    """A calibrated detector in evaluation, and its checkpoint."""
    model = stir(build_model(config(world, file_of(world, tmp_path)))).eval()
    StrictCheckpointer(model, str(tmp_path)).save("model")
    return model, tmp_path / "model.pth"


def uncalibrated(world: World, folder: Path) -> Path:
    StrictCheckpointer(stir(build_model(config(world))), str(folder)).save("paper")
    return folder / "paper.pth"


def detections(model: Any) -> Any:
    (answer,) = model([{"image": PICTURE, "height": SIDE, "width": SIDE}])
    return answer["instances"]


def assert_same(one: Any, other: Any) -> None:
    assert len(one) > 0 and torch.equal(one.scores, other.scores)
    assert torch.equal(one.pred_boxes.tensor, other.pred_boxes.tensor) and torch.equal(
        one.pred_classes, other.pred_classes
    )


def load(model: Any, path: Path, **others: Any) -> None:
    StrictCheckpointer(model, **others).load(str(path))


def test_logits_are_those_of_the_calibration(trained: tuple[Any, Path]) -> None:
    classifier = trained[0].classifier
    rows, text = torch.randn(3, 16), trained[0].text
    cosines = torch.nn.functional.normalize(rows, dim=1) @ text.T
    torch.testing.assert_close(classifier.score(rows, text), (cosines - 0.875) / 0.0625)
    assert not any("calibration" in name for name, _ in classifier.named_parameters())


def test_only_calibrated_weights_hold_numbers(world: World, trained: tuple[Any, Path], tmp_path: Path) -> None:
    assert state_of(trained[1])["model"][KEY].tolist() == NUMBERS
    assert KEY not in state_of(uncalibrated(world, tmp_path))["model"]


def test_a_detector_without_a_calibration_detects_as_the_trained_one_did(
    world: World, trained: tuple[Any, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = build_model(config(world)).eval()
    load(model, trained[1])
    assert_same(detections(model), detections(trained[0]))
    assert "model.pth was trained with the calibration temperature 0.0625, offset 0.875, which" in caplog.text


def test_the_demo_needs_no_file_of_a_calibration(world: World, trained: tuple[Any, Path], tmp_path: Path) -> None:
    cfg = config(world, str(tmp_path / "0.875.json"), MODEL__WEIGHTS=trained[1])
    (tmp_path / "0.875.json").unlink()
    assert_same(detections(Predictor(cfg).model), detections(trained[0]))


def test_plain_pytorch_loads_them_too(world: World, trained: tuple[Any, Path]) -> None:
    model = build_model(for_inference(config(world))).eval()
    weights = {name: w for name, w in trained[0].state_dict().items() if not name.startswith("extensions.")}
    model.load_state_dict(weights)
    assert_same(detections(model), detections(trained[0]))


def test_in_evaluation_the_numbers_of_the_weights_win(world: World, trained: tuple[Any, Path], tmp_path: Path) -> None:
    model = build_model(config(world, file_of(world, tmp_path, [0.5, 0.25]))).eval()
    load(model, trained[1])
    assert_same(detections(model), detections(trained[0]))


def test_weights_without_a_calibration_load_as_before_and_are_not_evaluated_with_one(
    world: World, tmp_path: Path
) -> None:
    path = uncalibrated(world, tmp_path)
    plain = build_model(config(world)).eval()
    load(plain, path)
    assert plain.classifier.calibration is None
    calibrated = build_model(config(world, file_of(world, tmp_path))).eval()
    with pytest.raises(ValueError, match='was trained with no calibration, but .* Set MODEL.CALIBRATION "", or train'):
        load(calibrated, path)


def test_a_new_training_keeps_its_own_numbers_and_says_so(
    world: World, trained: tuple[Any, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    backbone = {k: v for k, v in state_of(trained[1])["model"].items() if k.startswith("backbone.")}
    torch.save({"model": backbone}, tmp_path / "backbone.pth")
    file = file_of(world, tmp_path, [0.5, 0.25])
    for path, said in (
        (tmp_path / "backbone.pth", None),
        (uncalibrated(world, tmp_path), "trained with no calibration; from here on it is the calibration temp"),
        (trained[1], "offset 0.875; from here on it is the calibration temperature 0.5, offset 0.25"),
    ):
        caplog.clear()
        model = build_model(config(world, file)).train()
        load(model, path)
        assert model.classifier.calibration.tolist() == [0.5, 0.25]
        assert said in caplog.text if said else "calibration" not in caplog.text


@pytest.mark.parametrize("numbers", [None, [0.5, 0.25]])
def test_a_run_does_not_go_on_with_other_numbers(
    numbers: list[float] | None, world: World, trained: tuple[Any, Path], tmp_path: Path
) -> None:
    model = build_model(config(world, file_of(world, tmp_path, numbers) if numbers else "")).train()
    with pytest.raises(ValueError, match="Set MODEL.CALIBRATION to the file of that training"):
        load(model, trained[1], trainer=torch.nn.Linear(1, 1))


def test_training_evaluates_and_resumes_with_a_calibration(world: World, tmp_path: Path) -> None:
    more = {
        "MODEL__CLIP__WEIGHTS": world.root / "clip.pt", "MODEL__CALIBRATION": file_of(world, tmp_path),
        "SOLVER__CHECKPOINT_PERIOD": 1, "SOLVER__WARMUP_ITERS": 0,
    }  # fmt: skip
    run = world.train(tmp_path / "run", SOLVER__MAX_ITER=1, **more)
    world.train(run, resume=True, SOLVER__MAX_ITER=2, **more)
    assert state_of(run / "model_final.pth")["model"][KEY].tolist() == NUMBERS
    Path(more["MODEL__CALIBRATION"]).unlink()
    world.train(tmp_path / "evaluation", eval_only=True, MODEL__WEIGHTS=run / "model_final.pth", **more)
    assert list((tmp_path / "evaluation").rglob("results.json"))


def test_a_file_of_another_teacher_is_refused_before_training(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = file_of(world, tmp_path, probe=str([1.0] + [0.0] * 15))
    weights = {"MODEL__CLIP__WEIGHTS": world.root / "clip.pt"}
    with pytest.raises(SystemExit):
        world.train(tmp_path / "run", MODEL__CALIBRATION=file, **weights)
    assert "(MODEL.CALIBRATION) come from different CLIPs" in capsys.readouterr().err
