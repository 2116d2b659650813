"""Fine-tuning that keeps: what is measured before, during and after, what does not train, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.evaluate import kept_groups
from dk_detr.engine.keep import changes_of
from dk_detr.engine.run_folder import read_results
from dk_detr.engine.setup import for_inference
from dk_detr.language import save_vocabulary, words_of_checkpoint
from dk_detr.visualization.curves import read_metrics, series
from tests.keep_fixtures import NEW, few_labels, trained
from tests.run_fixtures import MINI, NAMES, World, assert_same_training, state_of, words

KEPT = "mini_lvis_val"


@pytest.fixture(scope="module")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(world, tmp_path_factory.mktemp("start"))


@pytest.fixture
def tuning(world: World, start: Path, tmp_path: Path) -> dict[str, Any]:
    return {**few_labels(world, tmp_path), "MODEL__WEIGHTS": start, "DATASETS__KEEP": (KEPT,)}


@pytest.fixture(scope="module")
def run(world: World, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning of two iterations with all that keeps, evaluated after each."""
    folder = tmp_path_factory.mktemp("run")
    options = {**few_labels(world, folder), "MODEL__WEIGHTS": start, "DATASETS__KEEP": (KEPT,)}
    keep = {"SOLVER__KEEP": ["classifier_projection", "interpolation"], "SOLVER__CHECKPOINT_PERIOD": 1}
    return world.train(folder / "run", **options, **keep, TEST__EVAL_PERIOD=1)


# ---- what is measured ----


def test_the_old_words_are_tested_before_during_and_after(run: Path) -> None:
    history = read_metrics(run / "metrics.json")
    for name in ("custom_val/bbox/AP50", f"{KEPT}/bbox/AP50-base", f"{KEPT}/bbox/AP50-novel"):
        assert series(history, name)[0] == [-1, 0, 2], name  # the last counts one on, as Detectron2 does
    results = (read_results(str(run)) or {})["results"]
    assert set(results) == {"custom_val", KEPT}
    assert {"AP50-base-kept", "AP50-novel-kept"} <= results[KEPT]["bbox"].keys()
    assert f"Before training -> now, {KEPT}: AP50" in (run / "log.txt").read_text()


def test_what_is_reached_before_is_what_the_start_reaches(world: World, start: Path, run: Path, tmp_path: Path) -> None:
    before = json.loads((run / "before.json").read_text())["results"][KEPT]["bbox"]
    alone = world.train(tmp_path, eval_only=True, MODEL__WEIGHTS=start, DATASETS__TEST=(KEPT,))
    reached = (read_results(str(alone)) or {})["results"]["bbox"]
    assert {name: before[name] for name in ("AP", "AP50-base")} == {name: reached[name] for name in ("AP", "AP50-base")}


def test_kept_groups_leave_out_what_is_trained_now(world: World) -> None:
    with world.in_use():
        groups = kept_groups(KEPT, words(), words((NEW, "boat"), novel=()))
        assert groups == {"base-kept": list(NAMES[:2]), "novel-kept": []}
        assert kept_groups(KEPT, words(), words(("boat",), novel=())) == {}, "nothing of it is trained"


def test_old_and_new_words_count_as_trained(world: World, run: Path) -> None:
    saved = state_of(run / "model_final.pth")["words"]
    assert saved["names"] == [NEW] and saved["before"] == sorted(NAMES[:2])
    with world.in_use():
        cfg = setup_cfg(MINI, [*world.options(), "MODEL.VOCABULARY.TEST", str(run / "custom_vocabulary.npz")])
        model: Any = build_model(for_inference(cfg)).eval()
    StrictCheckpointer(model).load(str(run / "model_final.pth"))
    model.set_vocabulary(words(("sky", *NAMES)))
    assert model.novel.tolist() == [True, False, False, False]


def test_without_keep_nothing_changes(world: World, tuning: dict[str, Any], tmp_path: Path) -> None:
    plain = world.train(tmp_path / "plain", **{**tuning, "DATASETS__KEEP": ()})
    assert not (plain / "before.json").exists()
    assert "before" not in state_of(plain / "model_final.pth")["words"]


def test_changes_are_listed_by_data_set() -> None:
    before = {"old": {"bbox": {"AP50": 0.0, "AP50-base": float("nan"), "AR": 1.0}}}
    now = {"old": {"bbox": {"AP50": 50.0, "AP50-base": 1.0, "AR": 2.0}}, "new": {"bbox": {"AP50": 1.0}}}
    assert list(changes_of(before, now)) == ["old: AP50 0.0 -> 50.0"]


# ---- what keeps ----


def test_a_frozen_projection_stays_and_all_else_learns(start: Path, run: Path) -> None:
    before, after = state_of(start)["model"], state_of(run / "model_final.pth")["model"]
    projections = {name for name in after if name.startswith("classifier.projections.")}
    changed = {name for name in after if name in before and not torch.equal(before[name], after[name])}
    assert projections and not projections & changed and any(name.startswith("decoder.") for name in changed)


def test_weights_between_are_loaded_and_the_last_are_gone_on_with(
    world: World, start: Path, run: Path, tmp_path: Path
) -> None:
    with world.in_use():
        model = build_model(for_inference(setup_cfg(MINI, world.options()))).eval()
    StrictCheckpointer(model).load(str(run / "model_final.pth"))
    name = "encoder.level_embed"
    first, last = state_of(start)["model"][name], state_of(run / "model_final.pth")["model"][name]
    assert not torch.equal(first, last)
    assert torch.allclose(model.state_dict()[name], (first + last) / 2)


def test_a_run_that_keeps_resumes_bit_for_bit(world: World, tuning: dict[str, Any], run: Path, tmp_path: Path) -> None:
    resumed = tmp_path / "resumed"
    resumed.mkdir()
    for name in ("custom_vocabulary.npz", "before.json"):
        (resumed / name).write_bytes((run / name).read_bytes())
    (resumed / "model_0000000.pth").write_bytes((run / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    keep = {"SOLVER__KEEP": ["classifier_projection", "interpolation"], "MODEL__WEIGHTS": "''"}
    world.train(resumed, resume=True, **{**tuning, **keep})
    assert_same_training(resumed / "model_final.pth", run / "model_final.pth")
    assert "before the first iteration" not in (resumed / "log.txt").read_text()


# ---- what is refused ----

CLOSED = {"MODEL__DETR__CLASSIFIER__NAME": "Linear"}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"MODEL__WEIGHTS": "''"}, "DATASETS.KEEP ['mini_lvis_val'] asks what is kept of a trained detector, and MODEL.W"),
    (CLOSED, 'is for detectors of any words, and MODEL.DETR.CLASSIFIER.NAME "Linear" knows those of training alone'),
    ({"SOLVER__KEEP": ["everything"]}, 'SOLVER.KEEP is "everything"; choose one of classifier_projection'),
    ({"SOLVER__KEEP": ["interpolation"], "SOLVER__KEEP_ALPHA": 2.0}, "SOLVER.KEEP_ALPHA is a share in [0, 1], got 2.0"),
    ({"SOLVER__KEEP": ["interpolation"], "SOLVER__EMA_DECAY": 0.9}, "SOLVER.EMA_DECAY 0.9 both say which weights"),
    ({"DATASETS__KEEP": ("mini_lvis",)}, 'There is no data set "mini_lvis"'),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_what_cannot_keep_is_refused_in_one_line(
    options: dict[str, Any], message: str, world: World, tuning: dict[str, Any], tmp_path: Path, refusal: Any
) -> None:
    assert message in refusal(tmp_path / "run", **{**tuning, **options})


def test_a_backbone_alone_is_refused(start: Path, tuning: dict[str, Any], tmp_path: Path, refusal: Any) -> None:
    weights = {name: w for name, w in state_of(start)["model"].items() if name.startswith("backbone.")}
    torch.save({"model": weights}, tmp_path / "backbone.pth")
    told = refusal(tmp_path / "run", **{**tuning, "MODEL__WEIGHTS": tmp_path / "backbone.pth"})
    assert "is no whole detector" in told and "DATASETS.KEEP and SOLVER.KEEP" in told


def test_words_that_the_vocabulary_lacks_are_refused_by_name(
    world: World, tuning: dict[str, Any], tmp_path: Path, refusal: Any
) -> None:
    save_vocabulary(words(NAMES[:2], novel=()), str(tmp_path / "less.npz"))
    told = refusal(tmp_path / "run", **{**tuning, "MODEL__VOCABULARY__TEST": tmp_path / "less.npz"})
    assert f"DATASETS.KEEP {KEPT}: The vocabulary" in told and f'the first unknown: "{NEW}"' in told


def test_a_run_without_a_start_cannot_be_gone_on_with_by_interpolation(
    world: World, tuning: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {**tuning, "DATASETS__KEEP": ()}
    folder = world.train(tmp_path / "run", **{**options, "SOLVER__CHECKPOINT_PERIOD": 1})
    (folder / "results.json").unlink()
    with pytest.raises(SystemExit):
        world.train(folder, resume=True, **{**options, "SOLVER__KEEP": ["interpolation"], "SOLVER__MAX_ITER": 3})
    assert "the run was begun without it" in capsys.readouterr().err


@pytest.fixture
def refusal(world: World, capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """What a training says that does not start."""

    def say(output: Path, **options: Any) -> str:
        with pytest.raises(SystemExit):
            world.train(output, **options)
        assert not list(output.glob("*.pth")) and not (output / "before.json").exists()
        return capsys.readouterr().err

    yield say


def test_words_of_the_start_are_those_it_was_trained_with(start: Path) -> None:
    saved = words_of_checkpoint(str(start))
    assert saved is not None and saved.names == NAMES[:2]
