"""The moving average of the weights: what it is, that it is evaluated, saved and loaded, and that no run minds it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from dk_detr.engine import Trainer, setup_cfg, trainer
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.ema import EMA_KEY, MovingAverage
from dk_detr.engine.predictor import Predictor
from dk_detr.engine.run_folder import read_results
from tests.run_fixtures import MINI, SIDE, World, assert_same_training, flatten, state_of

RUN = {"SOLVER__MAX_ITER": 4, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__WARMUP_ITERS": 0, "SOLVER__BASE_LR": 0.003}


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four iterations with an average, evaluated at the end."""
    return world.train(tmp_path_factory.mktemp("averaged"), SOLVER__EMA_DECAY=0.9, **RUN)


# ---- what it is ----


def number(value: float) -> nn.Module:
    """A model with one trainable number, one that is frozen, and a buffer."""
    model = nn.Module()
    model.trained = nn.Parameter(torch.tensor(value))
    model.frozen = nn.Parameter(torch.tensor(value), requires_grad=False)
    model.register_buffer("buffer", torch.tensor(value))
    return model


def averages(decay: float, *values: float) -> list[float]:
    """The average after each of these weights."""
    model, found = number(values[0]), []
    average = MovingAverage(model, decay)
    for value in values:
        model.trained.data.fill_(value)
        average.update()
        found.append(average.state_dict()["weights"]["trained"].item())
    return found


def test_an_average_counted_by_hand() -> None:
    """It keeps 0, 1/10 and 2/11 of itself in the first three steps, and then never more than its decay."""
    second = 0.1 * 8 + 0.9 * 4
    third = 2 / 11 * second + 9 / 11 * 1
    assert averages(0.9, 8.0, 4.0, 1.0) == pytest.approx([8.0, second, third])
    assert averages(0.15, 8.0, 4.0, 1.0) == pytest.approx([8.0, second, 0.15 * second + 0.85 * 1])


def test_in_the_long_run_a_step_leaves_its_decay() -> None:
    """After so many equal weights, the next one counts for 1 - decay."""
    *_, before, after = averages(0.5, *[1.0] * 20, 2.0)
    assert before == 1.0 and after == 1.5


def test_only_what_is_trained_is_averaged() -> None:
    average = MovingAverage(number(1.0), 0.9)
    average.update()
    assert list(average.state_dict()["weights"]) == ["trained"]


def test_the_model_has_the_average_for_a_while_and_then_its_own_weights_again() -> None:
    model = number(8.0)
    average = MovingAverage(model, 0.9)
    average.update()
    model.trained.data.fill_(4.0)
    own, place = model.trained, model.trained.data_ptr()
    with average.in_the_model():
        assert model.trained is own and model.trained.item() == 8.0
    assert model.trained.item() == 4.0 and model.trained.data_ptr() == place


def test_a_failure_on_the_way_gives_the_weights_back_too() -> None:
    model = number(8.0)
    average = MovingAverage(model, 0.9)
    average.update()
    model.trained.data.fill_(4.0)
    with pytest.raises(KeyboardInterrupt), average.in_the_model():
        raise KeyboardInterrupt
    assert model.trained.item() == 4.0


def test_before_the_first_step_the_average_is_the_model() -> None:
    model = number(8.0)
    with MovingAverage(model, 0.9).in_the_model():
        assert model.trained.item() == 8.0


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, 2.0])
def test_a_decay_that_is_none_is_refused_by_its_key(decay: float) -> None:
    with pytest.raises(ValueError, match=f"SOLVER.EMA_DECAY must lie between 0 and 1, got {decay}"):
        MovingAverage(number(1.0), decay)


# ---- in a run ----


def test_a_run_trains_the_same_with_and_without_an_average(run: Path, world: World, tmp_path: Path) -> None:
    world.train(tmp_path, DATASETS__TEST=(), **RUN)
    ours, theirs = (state_of(folder / "model_final.pth") for folder in (run, tmp_path))
    assert EMA_KEY in ours and EMA_KEY not in theirs
    for part in ("model", "trainer"):
        first, second = flatten(ours[part]), flatten(theirs[part])
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_checkpoint_holds_the_trained_weights_a_second_time_and_no_teacher(run: Path) -> None:
    state = state_of(run / "model_final.pth")
    average, model = state[EMA_KEY]["weights"], state["model"]
    assert set(average) < set(model) and "extensions.Distillation.queries.content.weight" in average
    assert not [name for name in average if "teacher" in name or "clip" in name or "running" in name]
    assert any(not torch.equal(weight, model[name]) for name, weight in average.items())
    assert state[EMA_KEY]["num_updates"] == 4


def only(run: Path, folder: Path, part: str) -> Path:
    """The file of a run with its last weights as they are ("model"), or with the average in their place."""
    state = state_of(run / "model_final.pth")
    weights = state["model"] if part == "model" else {**state["model"], **state[EMA_KEY]["weights"]}
    torch.save({"model": weights}, folder / f"{part}.pth")
    return folder / f"{part}.pth"


def results_of(world: World, weights: Path, folder: Path) -> str:
    world.train(folder, eval_only=True, MODEL__WEIGHTS=weights)
    return results_in(folder)


def results_in(folder: Path) -> str:
    results = read_results(str(folder))
    assert results is not None
    return json.dumps(results["results"]) + detections_in(folder)


def detections_in(folder: Path) -> str:
    """What was found: figures of untrained detectors are alike."""
    (file,) = folder.glob("inference/*/*.json")
    return file.read_text()


def test_the_average_is_evaluated_in_the_run_and_from_its_file(run: Path, world: World, tmp_path: Path) -> None:
    in_the_run = results_in(run)
    assert results_of(world, run / "model_final.pth", tmp_path / "file") == in_the_run
    assert results_of(world, only(run, tmp_path, "average"), tmp_path / "average") == in_the_run
    assert results_of(world, only(run, tmp_path, "model"), tmp_path / "model") != in_the_run


def test_both_say_so_in_the_log(run: Path, world: World, tmp_path: Path) -> None:
    said = "Evaluating the moving average of the weights (SOLVER.EMA_DECAY 0.9)"
    assert (run / "log.txt").read_text().count(said) == 1
    world.train(tmp_path, eval_only=True, MODEL__WEIGHTS=run / "model_final.pth")
    assert (tmp_path / "log.txt").read_text().count("holds a moving average of its weights (SOLVER.EMA_DECAY)") == 1


def test_an_evaluation_that_fails_leaves_the_trained_weights_in_the_model(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(cfg: Any, model: nn.Module) -> None:
        seen.update({name: weight.clone() for name, weight in model.named_parameters()})
        raise OSError("made to fail")

    seen: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(trainer, "evaluate", fail)
    with world.in_use():
        made = Trainer(setup_cfg(MINI, world.options(OUTPUT_DIR=tmp_path, SOLVER__EMA_DECAY=0.9)))
        made.average.update()
        weights = {name: weight for name, weight in made.model.named_parameters() if weight.requires_grad}
        for weight in weights.values():
            weight.data += 1
        before = {name: weight.clone() for name, weight in weights.items()}
        with pytest.raises(OSError, match="made to fail"):
            made._evaluate()
    assert all(torch.equal(weight, before[name]) for name, weight in weights.items())
    assert not [name for name in weights if torch.equal(seen[name], before[name])]


# ---- who loads what ----


def test_who_detects_loads_the_average(run: Path, world: World, tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)

    def scores(weights: Path) -> torch.Tensor:
        return Predictor(setup_cfg(MINI, world.options(MODEL__WEIGHTS=weights)))(picture).scores

    found = scores(run / "model_final.pth")
    assert torch.equal(found, scores(only(run, tmp_path, "average")))
    assert not torch.equal(found, scores(only(run, tmp_path, "model")))


def test_who_starts_a_new_run_starts_from_the_average(run: Path, world: World) -> None:
    model = build_model(setup_cfg(MINI, world.options()))
    StrictCheckpointer(model, trainer=nn.Module()).resume_or_load(str(run / "model_final.pth"), resume=False)
    average = state_of(run / "model_final.pth")[EMA_KEY]["weights"]
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in average.items())


def test_a_run_that_goes_on_without_its_average_goes_on_from_its_own_weights(
    run: Path, world: World, tmp_path: Path
) -> None:
    for folder, options in ((tmp_path / "with", {"SOLVER__EMA_DECAY": 0.9}), (tmp_path / "without", {})):
        folder.mkdir()
        (folder / "model_0000001.pth").write_bytes((run / "model_0000001.pth").read_bytes())
        (folder / "last_checkpoint").write_text("model_0000001.pth")
        world.train(folder, resume=True, DATASETS__TEST=(), **RUN, **options)
    assert_same_training(tmp_path / "with" / "model_final.pth", run / "model_final.pth")
    ours, theirs = (flatten(state_of(tmp_path / name / "model_final.pth")["model"]) for name in ("with", "without"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_a_run_that_begins_to_average_starts_with_the_weights_it_has(world: World, run: Path, tmp_path: Path) -> None:
    world.train(tmp_path, DATASETS__TEST=(), **{**RUN, "SOLVER__MAX_ITER": 2})
    world.train(tmp_path, resume=True, DATASETS__TEST=(), SOLVER__EMA_DECAY=0.9, **{**RUN, "SOLVER__MAX_ITER": 3})
    state = state_of(tmp_path / "model_final.pth")
    assert state[EMA_KEY]["num_updates"] == 1
    assert all(torch.equal(weight, state["model"][name]) for name, weight in state[EMA_KEY]["weights"].items())
