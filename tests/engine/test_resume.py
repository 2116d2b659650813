"""Resuming: an interrupted run, however it ended, goes on to the very weights of a run that was left alone."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.engine import Trainer, checkpoint, run_folder, trainer
from dk_detr.engine.optimizer import ClippedAdamW
from dk_detr.modeling import acceleration
from tests.run_fixtures import World, assert_same_training, flatten, state_of

NUM_ITERATIONS = 20
# Everything that draws random numbers or keeps a state: dropout, flips, batch norms, a schedule, the teacher's weights.
RUN = {
    "MODEL__DETR__DROPOUT": 0.1,
    "MODEL__DETR__DECODER_LAYERS": 2,
    "SOLVER__MAX_ITER": NUM_ITERATIONS,
    "SOLVER__WARMUP_ITERS": 4,
    "SOLVER__CHECKPOINT_PERIOD": 5,
    "SOLVER__CHECKPOINTS_TO_KEEP": 10,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "checkpointed": {"MODEL__DETR__CHECKPOINTED": ["backbone", "encoder", "decoder"]},
    "compiled": {"MODEL__DETR__COMPILED": ["encoder", "decoder"], "DATASETS__TEST": ()},
    "half floats": {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16"},
    "two parts": {"SOLVER__ACCUMULATE": 2},
    "moving average": {"SOLVER__EMA_DECAY": 0.95},
}


@pytest.fixture(scope="module")
def whole_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in one go."""
    return world.train(tmp_path_factory.mktemp("whole"), **RUN)


def test_ten_and_ten_iterations_are_twenty(world: World, tmp_path: Path) -> None:
    steps = {**RUN, "SOLVER__LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER__STEPS": (14,)}
    one_go = world.train(tmp_path / "one_go", **steps)
    two = world.train(tmp_path / "two", **{**steps, "SOLVER__MAX_ITER": 10})
    world.train(two, resume=True, **steps)
    assert_same_training(two / "model_final.pth", one_go / "model_final.pth")


@pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
def test_ten_and_ten_iterations_are_twenty_with_every_option(
    option: dict[str, Any], world: World, whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compiled is only followed here, not translated: see tests/modeling/test_acceleration.py."""
    monkeypatch.setattr(acceleration, "BACKEND", "eager")
    one_go = world.train(tmp_path / "one_go", **{**RUN, **option})
    start_from(one_go, "model_0000009.pth", tmp_path)
    world.train(tmp_path, resume=True, **{**RUN, **option})
    assert_same_training(tmp_path / "model_final.pth", one_go / "model_final.pth")
    ours, plain = (flatten(state_of(run / "model_final.pth")["model"]) for run in (one_go, whole_run))
    same = all(torch.equal(value, plain[key]) for key, value in ours.items())
    # Half floats compute otherwise; parts, and code that is compiled, draw other numbers for dropout.
    assert same == ("MODEL__DETR__CHECKPOINTED" in option or "SOLVER__EMA_DECAY" in option)


def test_a_run_without_a_pause_is_the_same_each_time_and_another_with_another_seed(
    world: World, whole_run: Path, tmp_path: Path
) -> None:
    again = world.train(tmp_path / "again", **RUN)
    assert_same_training(again / "model_final.pth", whole_run / "model_final.pth")
    other = world.train(tmp_path / "other", SEED=1, **RUN)
    with pytest.raises(AssertionError, match="differ"):
        assert_same_training(other / "model_final.pth", whole_run / "model_final.pth")


def test_going_on_with_worker_processes_changes_nothing(world: World, whole_run: Path, tmp_path: Path) -> None:
    start_from(whole_run, "model_0000009.pth", tmp_path)
    world.train(tmp_path, resume=True, DATALOADER__NUM_WORKERS=2, **RUN)
    assert_same_training(tmp_path / "model_final.pth", whole_run / "model_final.pth")


def test_evaluating_on_the_way_changes_nothing(world: World, whole_run: Path, tmp_path: Path) -> None:
    world.train(tmp_path, TEST__EVAL_PERIOD=7, **RUN)
    assert_same_training(tmp_path / "model_final.pth", whole_run / "model_final.pth")


# ---- kills ----


def _die(*args: Any, **kwargs: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _within_a_step() -> None:
    """Iteration 13 has changed half of the weights."""

    def update_half(self: ClippedAdamW, closure: Any = None) -> None:
        if next(steps) == 13:
            for parameter in self.param_groups[0]["params"]:
                parameter.data.zero_()
            _die()
        step(self, closure)

    steps, step = iter(range(NUM_ITERATIONS)), ClippedAdamW.step
    ClippedAdamW.step = update_half  # type: ignore[method-assign]


def _within_a_write() -> None:
    """The checkpoint of iteration 9 has been written half."""

    def save_half(data: Any, path: Path) -> None:
        save(data, path)
        if "0000009" in path.name:
            os.truncate(path, os.path.getsize(path) // 2)
            _die()

    save = torch.save
    checkpoint.torch.save = save_half  # type: ignore[assignment]


def _before_the_name_is_noted() -> None:
    """The checkpoint of iteration 9 is in its place, but the last one is still that of iteration 4."""
    note = checkpoint.StrictCheckpointer.tag_last_checkpoint
    checkpoint.StrictCheckpointer.tag_last_checkpoint = (  # type: ignore[method-assign]
        lambda self, name: _die() if "0000009" in name else note(self, name)
    )


def _within_the_evaluation() -> None:
    """All iterations are done, the result is not."""
    trainer.evaluate = _die


def _from_outside() -> None:
    """Dies when it is told to."""


def _train_and_die(world: World, output: Path, prepare: Callable[[], None]) -> None:
    prepare()
    world.train(output, **RUN)


def import_all() -> None:
    """What a run imports late, besides what comes with this module."""
    import open_clip  # noqa: F401
    import torch.utils.tensorboard  # noqa: F401


@pytest.fixture(scope="module")
def nursery() -> Iterator[ProcessPoolExecutor]:
    """A process that has imported everything and forks each run that is to die: to start them anew takes long."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), import_all) as pool:
        yield pool


def exit_code_of_a_run(world: World, output: Path, moment: Callable[[], None]) -> int | None:
    """Done in the nursery."""
    child = multiprocessing.get_context("fork").Process(target=_train_and_die, args=(world, output, moment))
    child.start()
    if moment is _from_outside:
        kill_at_some_moment(child, output)
    child.join(60)
    return child.exitcode


@pytest.mark.parametrize(
    "moment", [_within_a_step, _within_a_write, _before_the_name_is_noted, _within_the_evaluation, _from_outside]
)
def test_a_killed_run_goes_on_to_the_same_weights(
    moment: Callable[[], None], world: World, whole_run: Path, nursery: ProcessPoolExecutor, tmp_path: Path
) -> None:
    assert nursery.submit(exit_code_of_a_run, world, tmp_path, moment).result() == -signal.SIGKILL
    assert not (tmp_path / "results.json").exists()
    world.train(tmp_path, resume=True, **RUN)
    assert_same_training(tmp_path / "model_final.pth", whole_run / "model_final.pth")
    assert run_folder.read_results(str(tmp_path)) == run_folder.read_results(str(whole_run))


def kill_at_some_moment(process: Any, output: Path) -> None:
    """Once the first checkpoint is there, and before the run can be over."""
    while process.is_alive() and not (output / "last_checkpoint").exists():
        time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.3))
    process.kill()


# ---- what is found on resuming ----


def start_from(run: Path, name: str, folder: Path) -> None:
    """Make a folder that was left behind after this checkpoint of a run."""
    (folder / name).write_bytes((run / name).read_bytes())
    (folder / "last_checkpoint").write_text(name)


def test_a_half_written_file_of_a_killed_run_does_no_harm(world: World, whole_run: Path, tmp_path: Path) -> None:
    start_from(whole_run, "model_0000014.pth", tmp_path)
    for name in ("model_0000019.pth.part", "model_final.pth.part", "last_checkpoint.part", "results.json.part"):
        (tmp_path / name).write_bytes(b"half of")
    world.train(tmp_path, resume=True, **RUN)
    assert_same_training(tmp_path / "model_final.pth", whole_run / "model_final.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_last_checkpoint_that_is_cut_short_is_refused_by_name(
    share: float, world: World, whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_from(whole_run, "model_0000014.pth", tmp_path)
    whole = (tmp_path / "model_0000014.pth").read_bytes()
    (tmp_path / "model_0000014.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SystemExit):
        world.train(tmp_path, resume=True, **RUN)
    assert "model_0000014.pth is no whole checkpoint" in capsys.readouterr().err


def test_a_last_checkpoint_that_is_gone_is_missed_by_name(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "last_checkpoint").write_text("model_0000014.pth")
    with pytest.raises(SystemExit):
        world.train(tmp_path, resume=True, **RUN)
    assert f"There are no weights {tmp_path}/model_0000014.pth" in capsys.readouterr().err


def test_resuming_where_nothing_is_starts_at_the_beginning(world: World, whole_run: Path, tmp_path: Path) -> None:
    world.train(tmp_path / "new", resume=True, **RUN)
    assert_same_training(tmp_path / "new" / "model_final.pth", whole_run / "model_final.pth")


def test_a_finished_run_returns_at_once(world: World, whole_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "__init__", lambda *args: pytest.fail("built a trainer"))
    before = (whole_run / "model_final.pth").stat().st_mtime_ns
    world.train(whole_run, resume=True, **RUN)
    assert (whole_run / "model_final.pth").stat().st_mtime_ns == before


def test_a_run_that_failed_in_its_last_iteration_is_not_finished(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at_last(self: Trainer) -> None:
        run_step(self)
        if self.iter == NUM_ITERATIONS - 1:
            raise FloatingPointError("made to fail")

    run_step = Trainer.run_step
    monkeypatch.setattr(Trainer, "run_step", fail_at_last)
    with pytest.raises(SystemExit):
        world.train(tmp_path, **RUN)
    assert run_folder.read_results(str(tmp_path)) is None


def test_old_checkpoints_make_room_also_after_resuming(world: World, whole_run: Path, tmp_path: Path) -> None:
    for name in ("model_0000004.pth", "model_0000009.pth"):
        start_from(whole_run, name, tmp_path)
    world.train(tmp_path, resume=True, **{**RUN, "SOLVER__CHECKPOINTS_TO_KEEP": 2})
    kept = sorted(path.name for path in tmp_path.glob("model_*.pth"))
    assert kept == ["model_0000014.pth", "model_0000019.pth", "model_final.pth"]
