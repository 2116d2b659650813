"""The trainer on a tiny world: what it leaves behind, what it says, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import get_event_storage

from dk_detr.data import load_coco_format, register
from dk_detr.engine import Trainer, setup_cfg
from dk_detr.engine.evaluate import evaluate
from dk_detr.engine.run_folder import read_results
from dk_detr.language import save_vocabulary
from dk_detr.meta_arch.detr import DETR
from tests.run_fixtures import MINI, NAMES, World, make_world, words, write_json

MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "half floats": {"SOLVER__AMP__ENABLED": True, "SOLVER__AMP__DTYPE": "bfloat16"},
    "two parts": {"SOLVER__ACCUMULATE": 2},
    "moving average": {"SOLVER__EMA_DECAY": 0.9},
    "checkpointed": {"MODEL__DETR__CHECKPOINTED": ["encoder", "decoder"]},
}
SHORT = {"SOLVER__MAX_ITER": 2, "DATASETS__TEST": ()}


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four iterations, evaluated after each two."""
    folder = tmp_path_factory.mktemp("run")
    return world.train(folder, SOLVER__MAX_ITER=4, TEST__EVAL_PERIOD=2, SOLVER__CHECKPOINT_PERIOD=2)


def error_of(world: World, capsys: pytest.CaptureFixture[str], output: Path, **more: Any) -> str:
    """What tools/train_net.py says before it gives up."""
    with pytest.raises(SystemExit) as end:
        world.train(output, **{**SHORT, **more})
    assert end.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert len(said) == 1, lines
    return said[0]


# ---- what a run leaves behind ----


def test_a_run_leaves_weights_config_log_metrics_and_results(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"model_final.pth", "last_checkpoint", "config.yaml", "log.txt", "metrics.json", "results.json"} <= names
    assert not [name for name in names if name.endswith(".part")]


def test_results_are_those_of_the_last_iteration(run: Path) -> None:
    results = read_results(str(run))
    assert results is not None and results["iteration"] == 4
    assert {"AP", "AP50", "APr", "APc", "APf"} <= results["results"]["bbox"].keys()


def test_metrics_hold_every_loss_and_the_results_of_each_evaluation(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.json").read_text().splitlines()]
    keys = set().union(*lines)
    assert {"total_loss", "loss_class", "loss_l1", "loss_giou", "loss_proposal_class", "loss_kd_semantic"} <= keys
    assert {"loss_kd_relational_image", "loss_kd_relational_batch", "bbox/AP", "lr", "time", "data_time"} <= keys


def test_the_log_says_where_the_time_goes(run: Path) -> None:
    log = (run / "log.txt").read_text()
    assert "of an iteration of" in log
    assert all(f"{part} " in log for part in ("data", "matching", "teacher")) and "regions taught" in log


def test_evaluation_gives_the_words_back(world: World) -> None:
    with world.in_use():
        cfg = setup_cfg(MINI, world.options())
        model = build_model(cfg)
        words_before = model.vocabulary
        assert list(evaluate(cfg, model)) == ["mini_lvis_test"]
    assert model.vocabulary is words_before


def test_evaluating_the_weights_of_a_run_gives_its_results(world: World, run: Path, tmp_path: Path) -> None:
    weights = run / "model_final.pth"
    world.train(tmp_path, eval_only=True, MODEL__WEIGHTS=weights)
    again, first = read_results(str(tmp_path)), read_results(str(run))
    assert again and first and json.dumps(again["results"]) == json.dumps(first["results"])


def test_each_of_several_data_sets_is_scored_under_its_name(world: World, run: Path, tmp_path: Path) -> None:
    sets = ("mini_lvis_val", "mini_lvis_test")
    world.train(tmp_path, eval_only=True, MODEL__WEIGHTS=run / "model_final.pth", DATASETS__TEST=sets)
    results = read_results(str(tmp_path))
    assert results and tuple(results["results"]) == sets


def test_a_small_training_set_is_learnt(world: World, tmp_path: Path) -> None:
    world.train(tmp_path, **{**SHORT, "SOLVER__MAX_ITER": 41, "SOLVER__WARMUP_ITERS": 1})
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    first, last = lines[0]["total_loss"], lines[-1]["total_loss"]
    assert last < 0.8 * first


def test_each_iteration_draws_its_own_random_numbers(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses(self: DETR, *args: Any) -> dict[str, torch.Tensor]:
        seeds.append(torch.initial_seed())
        return true_losses(self, *args)

    seeds: list[int] = []
    true_losses = DETR.losses
    monkeypatch.setattr(DETR, "losses", losses)
    world.train(tmp_path, **{**SHORT, "SOLVER__MAX_ITER": 3})
    assert len(set(seeds)) == 3


# ---- what it refuses ----


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_loss_that_is_no_number_names_iteration_and_images(
    mode: dict[str, Any],
    world: World,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def losses(self: DETR, *args: Any) -> dict[str, torch.Tensor]:
        found = true_losses(self, *args)
        return {**found, "loss_class": found["loss_class"] * float("nan")} if get_event_storage().iter == 1 else found

    true_losses = DETR.losses
    monkeypatch.setattr(DETR, "losses", losses)
    message = error_of(world, capsys, tmp_path, **mode)
    assert "The loss is not finite at iteration 1: loss_class. Images: 00000" in message
    assert message.count(".png") == 2
    assert message.count("or go without SOLVER.AMP") == ("SOLVER__AMP__ENABLED" in mode)
    assert not (tmp_path / "model_final.pth").exists()


def test_a_rate_that_is_far_too_high_ends_the_same_way(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate = {"SOLVER__BASE_LR": 1e30, "SOLVER__WARMUP_ITERS": 0, "SOLVER__MAX_ITER": 5}
    message = error_of(world, capsys, tmp_path, **rate)
    assert "The loss is not finite at iteration" in message
    assert ".png" in message


def test_no_training_set_is_refused_by_its_key(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "DATASETS.TRAIN is empty" in error_of(world, capsys, tmp_path, DATASETS__TRAIN=())


def test_an_unknown_data_set_is_refused_with_those_that_are_known(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(world, capsys, tmp_path, DATASETS__TRAIN=("mini_lvis",))
    assert 'no data set "mini_lvis"' in message and "mini_lvis_train_norare" in message


def test_a_missing_data_set_is_refused_with_the_file_that_it_needs(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(World, "in_use", World(tmp_path / "nothing").in_use.__func__)
    elsewhere = World(tmp_path / "nothing")
    options = world.options(OUTPUT_DIR=tmp_path / "run", **SHORT)
    monkeypatch.setattr(World, "options", lambda self, **more: options)
    message = error_of(elsewhere, capsys, tmp_path / "run")
    assert "nothing/mini_lvis/annotations/mini_lvis_train_norare.json" in message
    assert "DETECTRON2_DATASETS" in message


def test_a_category_unknown_to_the_vocabulary_is_refused_by_name(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_vocabulary(words(("red_box", "green_thing", "blue_box")), str(tmp_path / "other.npz"))
    message = error_of(world, capsys, tmp_path, MODEL__VOCABULARY__TEST=tmp_path / "other.npz")
    assert '1 of the 3 categories of "mini_lvis_train_norare"' in message and '"green_box"' in message


def test_a_test_category_unknown_to_the_vocabulary_is_refused_by_name(
    world: World, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_vocabulary(words(("red_box", "green_thing", "blue_box")), str(tmp_path / "other.npz"))
    message = error_of(
        world, capsys, tmp_path, eval_only=True, MODEL__WEIGHTS=run / "model_final.pth",
        MODEL__VOCABULARY__TEST=tmp_path / "other.npz", DATASETS__TEST=("mini_lvis_test",),
    )  # fmt: skip
    assert 'the first unknown: "green_box"' in message


def test_a_vocabulary_of_another_width_than_the_teacher_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_vocabulary(words(width=24), str(tmp_path / "wide.npz"))
    message = error_of(world, capsys, tmp_path, MODEL__VOCABULARY__TEST=tmp_path / "wide.npz")
    assert "embeddings of width 16, but MODEL.VOCABULARY.TEST has width 24" in message


def test_an_empty_vocabulary_is_refused_by_its_key(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "MODEL.VOCABULARY.TEST is empty" in error_of(world, capsys, tmp_path, MODEL__VOCABULARY__TEST="''")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_truncated_image_is_named_once(
    workers: int, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = make_world(tmp_path / "broken")
    for image in (tmp_path / "broken/mini_lvis/train").iterdir():
        image.write_bytes(image.read_bytes()[:60])
    message = error_of(broken, capsys, tmp_path / "run", DATALOADER__NUM_WORKERS=workers)
    assert "broken/mini_lvis/train/00000" in message and "cannot be read" in message


def test_data_sets_with_other_categories_than_the_first_are_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their boxes would be taken for those of the categories in the same place."""
    file = world.root / "mini_lvis/annotations/mini_lvis_train.json"
    content = json.loads(file.read_text())
    for category, name in zip(content["categories"], reversed(NAMES)):
        category["name"] = name
    other = write_json(tmp_path / "other.json", content)
    register("other_order", other, str(world.root / "mini_lvis"))
    assert load_coco_format(other, "", "other_order")
    message = error_of(world, capsys, tmp_path / "run", DATASETS__TRAIN=("mini_lvis_train", "other_order"))
    assert '"other_order"' in message and '"mini_lvis_train"' in message


def test_a_data_set_without_boxes_is_refused_by_name(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = world.root / "mini_lvis/annotations/mini_lvis_train.json"
    bare = {**json.loads(file.read_text()), "annotations": []}
    register("bare", write_json(tmp_path / "bare.json", bare), str(world.root / "mini_lvis"))
    for sampler in ("TrainingSampler", "RepeatFactorTrainingSampler"):
        message = error_of(
            world, capsys, tmp_path / "run", DATASETS__TRAIN=("bare",), DATALOADER__SAMPLER_TRAIN=sampler
        )
        assert '"bare"' in message or "bare.json" in message


def test_evaluating_without_weights_is_refused(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = error_of(world, capsys, tmp_path, eval_only=True, DATASETS__TEST=("mini_lvis_val",))
    assert "--eval-only needs weights" in message


def test_a_seed_drawn_by_chance_is_a_seed(world: World, tmp_path: Path) -> None:
    with world.in_use():
        trainer = Trainer(setup_cfg(MINI, world.options(OUTPUT_DIR=tmp_path, SEED=-1)))
    assert trainer.seed >= 0
