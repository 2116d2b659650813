"""The folder of a run: no other run and no evaluation writes over it; a run that goes on says with what, or refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.utils.events import get_event_storage

from dk_detr.engine import Trainer
from dk_detr.engine.run_folder import EVALUATION, changes_since, fall_back, holds_run, read_results
from dk_detr.engine.setup import setup_cfg, with_values
from dk_detr.meta_arch.detr import DETR
from tests.run_fixtures import MINI, World, state_of

RUN: dict[str, Any] = {
    "SOLVER__MAX_ITER": 4,
    "SOLVER__CHECKPOINT_PERIOD": 2,
    "SOLVER__WARMUP_ITERS": 0,
    "SOLVER__BASE_LR": 0.001,
    "SOLVER__WEIGHT_DECAY": 0.01,
    "SOLVER__STEPS": (3,),
    "SOLVER__GAMMA": 0.5,
    "DATASETS__TEST": (),
}


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is done, with results."""
    folder = tmp_path_factory.mktemp("finished")
    return world.train(folder, **{**RUN, "DATASETS__TEST": ("mini_lvis_val",), "SOLVER__EMA_DECAY": 0.9})


@pytest.fixture
def interrupted(finished: Path, tmp_path: Path) -> Path:
    """The same, stopped after two iterations."""
    folder = tmp_path / "interrupted"
    folder.mkdir()
    for name in ("config.yaml", "model_0000001.pth"):
        shutil.copy(finished / name, folder)
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the log, to which every call adds its lines."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "log.txt"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def error_of(world: World, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line that a run ends in."""

    def run(folder: Path, **options: Any) -> str:
        with pytest.raises(SystemExit):
            world.train(folder, **options)
        line = capsys.readouterr().err
        assert line.startswith("error: ") and line.count("\n") == 1
        return line

    return run


def go_on(world: World, folder: Path, **more: Any) -> str:
    """Resume with other options; returns the log."""
    world.train(folder, resume=True, **{**RUN, "DATASETS__TEST": ("mini_lvis_val",), "SOLVER__EMA_DECAY": 0.9, **more})
    return (folder / "log.txt").read_text()


# ---- nothing is mixed ----


def test_a_new_run_puts_the_old_one_of_its_folder_aside_whole_and_says_so(
    world: World, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "notes.txt").write_text("of the user")
    before = contents(finished)
    world.train(run, **{**RUN, "SOLVER__MAX_ITER": 2})
    after = contents(run)
    aside = {name.removeprefix("previous_1/"): data for name, data in after.items() if name.startswith("previous_1/")}
    assert aside == before and (run / "notes.txt").is_file()
    assert read_results(str(run))["iteration"] == 2  # type: ignore[index]
    assert (run / "last_checkpoint").read_text() == "model_final.pth" and "model_0000003.pth" not in after
    said = f"held a run that this one does not go on with: it is now in {run}/previous_1."
    assert said in (run / "log.txt").read_text()


def test_a_new_run_that_is_killed_is_resumed_and_not_taken_for_the_old_one(
    world: World, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", lambda trainer: None)  # killed before its first checkpoint
        world.train(run, **{**RUN, "SOLVER__MAX_ITER": 6})
    assert not holds_run(str(run))
    world.train(run, resume=True, **{**RUN, "SOLVER__MAX_ITER": 6})
    assert read_results(str(run))["iteration"] == 6  # type: ignore[index]


def test_a_new_run_that_cannot_begin_leaves_the_old_one_as_it_is(
    finished: Path, tmp_path: Path, error_of: Callable[..., str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    assert "nowhere.pth" in error_of(run, **RUN, MODEL__WEIGHTS="nowhere.pth")
    assert contents(run) == contents(finished) and not (run / "previous_1").exists()


def test_weights_of_the_run_that_would_be_put_aside_are_refused(finished: Path, error_of: Callable[..., str]) -> None:
    before = contents(finished)
    error = error_of(finished, **RUN, MODEL__WEIGHTS=finished / "model_final.pth")
    assert "belongs to the run that OUTPUT_DIR holds" in error and "another OUTPUT_DIR" in error
    assert contents(finished) == before


@pytest.mark.parametrize("name", ["results.json", "last_checkpoint", "model_final.pth", "model_0000009.pth"])
def test_whatever_a_run_would_be_missed_for_makes_a_run(name: str, tmp_path: Path) -> None:
    assert not holds_run(str(tmp_path / "nowhere")) and not holds_run(str(tmp_path))
    (tmp_path / name).write_text('{"iteration": 3, "results": {}}')
    assert holds_run(str(tmp_path))


def test_a_run_that_died_before_its_first_checkpoint_can_be_started_again(world: World, tmp_path: Path) -> None:
    begun = ("config.yaml", "log.txt", "metrics.json", "custom_vocabulary.npz", "model_0000001.pth.part", "R50.pth")
    for name in begun:
        (tmp_path / name).touch()
    world.train(tmp_path, **RUN)
    assert read_results(str(tmp_path)) is not None


def test_evaluating_leaves_the_run_as_it_is_and_writes_beside_it(world: World, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    before = contents(run)
    world.train(
        run, eval_only=True, DATASETS__TEST=("mini_lvis_test",), MODEL__WEIGHTS=run / "model_0000001.pth",
        TEST__DETECTIONS_PER_IMAGE=3,
    )  # fmt: skip
    beside = {name for name in contents(run) if name.startswith(EVALUATION)}
    assert {name: data for name, data in contents(run).items() if name not in beside} == before
    assert {f"{EVALUATION}/results.json", f"{EVALUATION}/config.yaml"} < beside
    results = read_results(str(run / EVALUATION))
    assert results is not None and results["iteration"] == 2  # of the checkpoint
    assert yaml.safe_load((run / EVALUATION / "config.yaml").read_text())["TEST"]["DETECTIONS_PER_IMAGE"] == 3


def test_evaluating_the_last_checkpoint_does_so_too(world: World, finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    world.train(run, eval_only=True, resume=True, DATASETS__TEST=("mini_lvis_val",))
    ours, theirs = read_results(str(run / EVALUATION)) or {}, read_results(str(run))
    assert ours.pop("weights") == str(run / "model_final.pth")
    assert json.dumps(ours) == json.dumps(theirs)


def test_an_evaluation_is_not_taken_for_a_run(world: World, finished: Path, tmp_path: Path) -> None:
    evaluation = {"DATASETS__TEST": ("mini_lvis_val",), "MODEL__WEIGHTS": finished / "model_final.pth"}
    for _ in range(2):  # the second in the place of the first
        world.train(tmp_path, eval_only=True, **evaluation)
    assert not holds_run(str(tmp_path)) and not (tmp_path / EVALUATION).exists()
    found = (tmp_path / "results.json").read_bytes()
    world.train(tmp_path, resume=True, **RUN)
    assert (tmp_path / "previous_1" / "results.json").read_bytes() == found
    assert read_results(str(tmp_path))["iteration"] == 4  # type: ignore[index]


def test_a_finished_run_that_is_resumed_is_left_as_it_is(world: World, finished: Path) -> None:
    before = contents(finished)
    go_on(world, finished, SOLVER__BASE_LR=0.1)
    assert contents(finished) == before


# ---- with what a run goes on ----


def group_values(folder: Path, key: str) -> set[float]:
    """Of the groups of the optimizer at the end of a run."""
    groups = state_of(folder / "model_final.pth")["trainer"]["_trainer"]["optimizer"]["param_groups"]
    return {round(group[key], 9) for group in groups}


def test_changed_rates_decays_and_schedules_take_effect_and_are_told(world: World, interrupted: Path) -> None:
    log = go_on(
        world, interrupted, SOLVER__BASE_LR=0.0002, SOLVER__WEIGHT_DECAY=0.5, SOLVER__GAMMA=0.1, SOLVER__EMA_DECAY=0.5,
        SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.3,
    )  # fmt: skip
    assert group_values(interrupted, "lr") == {0.00002}
    assert group_values(interrupted, "weight_decay") == {0.0, 0.5}
    for told in ("BASE_LR 0.001 -> 0.0002", "WEIGHT_DECAY 0.01 -> 0.5", "GAMMA 0.5 -> 0.1", "EMA_DECAY 0.9 -> 0.5",
                 "CLIP_GRADIENTS.CLIP_VALUE 1.0 -> 0.3"):  # fmt: skip
        assert f"SOLVER.{told} from iteration 2 on." in log
    assert yaml.safe_load((interrupted / "config.yaml").read_text())["SOLVER"]["BASE_LR"] == 0.0002


def test_the_first_iteration_has_the_changed_rate_already(
    world: World, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    run_step = Trainer.run_step
    monkeypatch.setattr(
        Trainer, "run_step", lambda self: rates.append(self.optimizer.param_groups[0]["lr"]) or run_step(self)
    )
    go_on(world, interrupted, SOLVER__BASE_LR=0.0002)
    assert rates == [pytest.approx(0.0002), pytest.approx(0.0001)]  # at iteration 3 the schedule has its step


def test_a_run_that_changes_nothing_tells_of_nothing(world: World, interrupted: Path, tmp_path: Path) -> None:
    moved = interrupted.rename(tmp_path / "moved")
    assert " -> " not in go_on(world, moved)


def test_groups_of_other_rates_keep_what_is_known_of_each_parameter(world: World, interrupted: Path) -> None:
    """A rate of the backbone of its own makes groups of its own."""
    go_on(world, interrupted, SOLVER__BACKBONE_MULTIPLIER=0.1, SOLVER__GAMMA=1.0)
    assert group_values(interrupted, "lr") == {0.001, 0.0001}
    shapes = {name: value.shape for name, value in state_of(interrupted / "model_final.pth")["model"].items()}
    optimizer = state_of(interrupted / "model_final.pth")["trainer"]["_trainer"]["optimizer"]
    for group in optimizer["param_groups"]:
        for name, number in zip(group["names"], group["params"]):
            assert optimizer["state"][number]["exp_avg"].shape == shapes[name]
            assert optimizer["state"][number]["step"] == 4


def test_a_checkpoint_from_before_parameters_had_names_is_taken_up(world: World, interrupted: Path) -> None:
    forget_names(interrupted)
    go_on(world, interrupted, SOLVER__BASE_LR=0.0002)
    assert group_values(interrupted, "lr") == {0.0001}


def test_one_in_other_groups_is_refused_by_key(interrupted: Path, error_of: Callable[..., str]) -> None:
    forget_names(interrupted)
    error = error_of(interrupted, resume=True, **RUN, SOLVER__BACKBONE_MULTIPLIER=0.1)
    assert "in groups of [" in error and "SOLVER.BACKBONE_MULTIPLIER 1.0 -> 0.1" in error


def forget_names(run: Path) -> None:
    state = state_of(run / "model_0000001.pth")
    for group in state["trainer"]["_trainer"]["optimizer"]["param_groups"]:
        del group["names"]
    torch.save(state, run / "model_0000001.pth")


TAUGHT = "extensions.Distillation.queries.content.weight"
REFUSED = {
    "SOLVER.OPTIMIZER AdamW -> SGD": 'SOLVER.OPTIMIZER is "SGD", but the run was trained with "AdamW"',
    "MODEL.KD.QUERIES Auxiliary -> Detection": f"{TAUGHT} is trained by the run only (1 such)",
    "MODEL.TRAINING_EXTENSIONS ['Distillation'] -> ['Distillation', 'Denoising']": "extensions.Denoising.",
    "MODEL.BACKBONE.FREEZE_AT 0 -> 2": "is trained by the run only",
    "MODEL.DETR.NUM_QUERIES 10 -> 12": "is of another detector",
}


@pytest.mark.parametrize(("change", "message"), REFUSED.items(), ids=REFUSED)
def test_what_a_run_cannot_go_on_with_is_refused_by_key(
    change: str, message: str, interrupted: Path, error_of: Callable[..., str]
) -> None:
    key, value = change.split(" ", 1)[0], change.split(" -> ")[1]
    before = contents(interrupted)
    error = error_of(interrupted, resume=True, **{**RUN, key.replace(".", "__"): value})
    assert message in error and change in error
    assert before.items() <= contents(interrupted).items()


def test_fewer_iterations_than_are_done_are_refused(interrupted: Path, error_of: Callable[..., str]) -> None:
    error = error_of(interrupted, resume=True, **{**RUN, "SOLVER__MAX_ITER": 1})
    assert "SOLVER.MAX_ITER is 1, but the run has done 2 iterations already." in error


@pytest.mark.parametrize("content", [None, "", "[1, 2", "- 1\n", "\x00"])
def test_without_a_config_that_can_be_read_nothing_is_said_to_have_changed(
    content: str | None, tmp_path: Path, world: World
) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    assert changes_since(str(tmp_path), setup_cfg(MINI)) == {}


def test_keys_that_only_one_version_knows_have_not_changed(tmp_path: Path) -> None:
    cfg = setup_cfg(MINI)
    known = yaml.safe_load(cfg.dump())
    del known["SOLVER"]["GAMMA"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**known, "OLD": 1}))
    assert changes_since(str(tmp_path), with_values(cfg, {"SOLVER.GAMMA": 0.3, "SEED": 7})) == {"SEED": (0, 7)}


def test_a_bias_that_learns_faster_is_refused_by_key(tmp_path: Path, error_of: Callable[..., str]) -> None:
    assert "SOLVER.BIAS_LR_FACTOR is 2.0" in error_of(tmp_path, **RUN, SOLVER__BIAS_LR_FACTOR=2.0)


# ---- the last sound checkpoint ----


def checkpoints(folder: Path, *numbers: int) -> None:
    for number in numbers:
        (folder / f"model_{number:07d}.pth").touch()
    (folder / "last_checkpoint").write_text(f"model_{numbers[-1]:07d}.pth")


def test_what_was_saved_right_before_is_put_aside_for_one_that_is_sound(tmp_path: Path) -> None:
    checkpoints(tmp_path, 4, 9)
    told = fall_back(str(tmp_path), 10)
    assert "--resume goes on from model_0000004.pth, after 5 iterations, which is sound" in told
    assert "kept as doubtful_0000009.pth, and may be broken already" in told
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"
    assert {path.name for path in tmp_path.iterdir()} == {
        "last_checkpoint", "model_0000004.pth", "doubtful_0000009.pth"
    }  # fmt: skip


def test_a_checkpoint_that_was_trained_from_since_is_sound(tmp_path: Path) -> None:
    checkpoints(tmp_path, 4, 9)
    told = fall_back(str(tmp_path), 11)
    assert told == "--resume goes on from model_0000009.pth, after 10 iterations, which is sound."
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"


def test_where_none_is_known_to_be_sound_it_says_so_and_changes_nothing(tmp_path: Path) -> None:
    assert fall_back(str(tmp_path), 3) == "No earlier checkpoint is known to be sound."
    checkpoints(tmp_path, 4)
    told = fall_back(str(tmp_path), 5)
    assert told.endswith("known to be sound; model_0000004.pth, saved right before, may be broken already.")
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000004.pth"


def fail_at(iteration: int, fail: Callable[[DETR], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let something happen before the losses of an iteration."""
    true_losses = DETR.losses

    def losses(self: DETR, *args: Any) -> dict[str, torch.Tensor]:
        if get_event_storage().iter == iteration:
            fail(self)
        return true_losses(self, *args)

    monkeypatch.setattr(DETR, "losses", losses)


def break_a_gradient(model: DETR) -> None:
    model.encoder.level_embed.register_hook(lambda gradient: gradient * float("nan"))


def break_a_weight(model: DETR) -> None:
    def fill(weight: torch.Tensor) -> None:
        weight.data.fill_(float("inf"))

    model.encoder.level_embed.register_post_accumulate_grad_hook(fill)


def break_a_statistic(model: DETR) -> None:
    next(b for name, b in model.named_buffers() if "running_var" in name).fill_(float("nan"))


RATHER_LONG = {**RUN, "SOLVER__MAX_ITER": 8, "SOLVER__CHECKPOINT_PERIOD": 2, "SOLVER__CHECKPOINTS_TO_KEEP": 1}


@pytest.mark.parametrize(
    ("broken", "iteration", "message"),
    [
        (break_a_gradient, 4, "The gradient is not finite at iteration 4. Images: 0000"),
        (break_a_gradient, 5, "The gradient is not finite at iteration 5. Images: 0000"),  # is to be saved
        (break_a_weight, 5, "The model is not finite at iteration 5: encoder.level_embed (1 such). Images: 0000"),
        (break_a_statistic, 5, "The model is not finite at iteration 5: backbone."),
    ],
)
def test_broken_weights_are_not_saved_and_resume_starts_from_sound_ones(
    broken: Callable[[DETR], None], iteration: int, message: str, world: World, tmp_path: Path,
    error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fail_at(iteration, broken, monkeypatch)
    error = error_of(tmp_path, **RATHER_LONG)
    last = f"model_{(iteration - 2) // 2 * 2 + 1:07d}.pth"
    assert message in error and f"--resume goes on from {last}, " in error
    assert (tmp_path / "last_checkpoint").read_text() == last
    assert all(value.isfinite().all() for value in state_of(tmp_path / last)["model"].values())
    monkeypatch.undo()
    world.train(tmp_path, resume=True, **RATHER_LONG)
    assert read_results(str(tmp_path)) is not None


def test_a_broken_loss_right_after_a_checkpoint_leaves_the_one_before(
    world: World, tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one to keep, too: the older is removed only when the newer has shown to be sound."""
    fail_at(6, lambda model: model.decoder.layers[0].norm1.weight.data.fill_(float("nan")), monkeypatch)
    error = error_of(tmp_path, **RATHER_LONG)
    assert "The loss is not finite at iteration 6" in error and "goes on from model_0000003.pth, after 4" in error
    assert {path.name for path in tmp_path.glob("*.pth")} == {"model_0000003.pth", "doubtful_0000005.pth"}


def test_a_gradient_that_breaks_changes_no_weight(
    world: World, tmp_path: Path, error_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def remember(model: DETR) -> None:
        weights.append({name: value.detach().clone() for name, value in model.named_parameters()})
        break_a_gradient(model)

    weights: list[dict[str, torch.Tensor]] = []
    fail_at(3, remember, monkeypatch)
    true_fall_back = Trainer._falling_back
    seen: list[Trainer] = []
    monkeypatch.setattr(Trainer, "_falling_back", lambda self, i: seen.append(self) or true_fall_back(self, i))
    error_of(tmp_path, **RATHER_LONG)
    now = dict(seen[-1].model.named_parameters())
    assert all(torch.equal(value, now[name]) for name, value in weights[0].items())


def test_to_keep_no_checkpoint_is_refused_by_key(tmp_path: Path, error_of: Callable[..., str]) -> None:
    assert "SOLVER.CHECKPOINTS_TO_KEEP must be at least 1, got 0" in error_of(
        tmp_path, **{**RUN, "SOLVER__CHECKPOINTS_TO_KEEP": 0}
    )
