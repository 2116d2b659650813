"""Evaluation on several data sets, each with its own words; wrong words are refused before anything starts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog

from dk_detr.annotations.ov_coco import BASE, NOVEL
from dk_detr.data import register
from dk_detr.engine.run_folder import read_results
from dk_detr.language import save_vocabulary, words_of_checkpoint
from dk_detr.visualization.curves import read_metrics, series
from tests.run_fixtures import COCO_IDS, NAMES, World, words, write_json

OTHER = ("thing_b", "thing_a", "thing_c")  # the same boxes under other names, in another order


@pytest.fixture
def other(world: World, tmp_path: Path) -> Iterator[str]:
    """A data set with other names, scored by COCO's rules; the name that the vocabulary file is given for."""
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_val.json").read_text())
    for row, name in zip(content["categories"], OTHER):
        row["name"] = name
        del row["frequency"]
    with registered("other_val", write_json(tmp_path / "other.json", content), world, "coco"):
        yield "other_val"


@contextmanager
def registered(name: str, json_file: str, world: World, kind: str, **metadata: Any) -> Iterator[None]:
    """A data set with the images of the world, as long as the block lasts."""
    register(name, json_file, str(world.root / "mini_lvis"), kind, **metadata)
    try:
        yield
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def two_sets(path: Path) -> dict[str, Any]:
    """Options for both data sets, the second with words of its own."""
    return {
        "DATASETS__TEST": ("mini_lvis_val", "other_val"),
        "MODEL__VOCABULARY__OF_DATASETS": [f"other_val={path}"],
        "SOLVER__MAX_ITER": 1,
        "SOLVER__WARMUP_ITERS": 0,
    }


def saved(path: Path, *names: str, **more: Any) -> Path:
    save_vocabulary(words(names, **more), str(path))
    return path


def error_of(world: World, output: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """What training says that does not start."""
    with pytest.raises(SystemExit):
        world.train(output, **options)
    assert not (output / "metrics.json").exists() and not list(output.glob("*.pth"))
    return capsys.readouterr().err


def test_each_test_set_has_its_own_words_rules_and_files(world: World, other: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "other.npz", *sorted(OTHER), "never_asked_for", novel=("thing_a",))
    output = world.train(tmp_path / "run", **two_sets(path))
    results = (read_results(str(output)) or {})["results"]
    assert "APr" in results["mini_lvis_val"]["bbox"] and "APr" not in results["other_val"]["bbox"]
    for name, kind in (("mini_lvis_val", "lvis"), ("other_val", "coco")):
        folder = output / "inference" / name
        assert {file.name for file in folder.iterdir()} == {
            f"{kind}_results.json", f"{kind}_categories.csv", f"{kind}_categories.md"
        }  # fmt: skip
        rows = (folder / f"{kind}_categories.csv").read_text().splitlines()[1:]
        assert [row.split(",")[0] for row in rows] == list(NAMES if kind == "lvis" else OTHER)
    curves = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert any("other_val/bbox/AP50-novel" in line for line in curves)


def test_the_detector_is_asked_for_the_words_of_each_test_set_and_keeps_its_own(
    world: World, other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def inference(model: Any, loader: Any, evaluator: Any) -> dict[str, Any]:
        asked.append(model.vocabulary)
        assert torch.equal(model.text, model.vocabulary.embeddings)
        return {}

    monkeypatch.setattr("dk_detr.engine.evaluate.inference_on_dataset", inference)
    path = saved(tmp_path / "other.npz", "never_asked_for", *sorted(OTHER), novel=())
    world.train(tmp_path / "run", **two_sets(path) | {"SOLVER__MAX_ITER": 2, "TEST__EVAL_PERIOD": 1})
    assert [words.names for words in asked] == [NAMES, OTHER] * 2
    assert all(words.provenance["file"] == str(path) for words in asked[1::2])


def test_novel_is_what_the_benchmark_says_where_it_says_so(world: World, tmp_path: Path) -> None:
    json_file = str(world.root / "mini_lvis/annotations/mini_lvis_val.json")
    options = {"DATASETS__TEST": ("mine",), "SOLVER__MAX_ITER": 1, "SOLVER__WARMUP_ITERS": 0}
    with registered("mine", json_file, world, "coco", novel_names=("green_box", "of_another_split")):
        output = world.train(tmp_path / "run", **options)  # with words of which "blue_box" is novel
    rows = (output / "inference/mine/coco_categories.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows if row.split(",")[2] == "1"] == ["green_box"]
    assert "mine: novel are the 1 of the benchmark, not the 1 of the vocabulary" in (output / "log.txt").read_text()


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (("thing_a", "thing_b"), {}, 'lacks 1 of 3 names; the first unknown: "thing_c"'),
        (("a", "b", "c"), {}, 'lacks 3 of 3 names; the first unknown: "thing_b", "thing_a", "thing_c"'),
        (OTHER, {"width": 8}, "text embeddings of width 16; the vocabulary (3 names"),
    ],
)
def test_wrong_words_are_refused_before_training_starts(
    world: World, other: str, tmp_path: Path, capsys, names, more, message
) -> None:
    path = saved(tmp_path / "wrong.npz", *names, **{"novel": (), **more})
    error = error_of(world, tmp_path / "run", capsys, **two_sets(path))
    assert error.startswith("error: DATASETS.TEST other_val: ") and message in error


def test_the_65_words_of_ov_coco_are_refused_for_the_80_categories_of_coco(
    world: World, tmp_path: Path, capsys
) -> None:
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_val.json").read_text())
    content["categories"] = [{"id": number, "name": name} for name, number in COCO_IDS.items()]
    path = saved(tmp_path / "ov_coco.npz", *sorted({**BASE, **NOVEL}), novel=tuple(NOVEL))
    with registered("all_of_coco", write_json(tmp_path / "coco.json", content), world, "coco"):
        options = {"DATASETS__TEST": ("all_of_coco",), "MODEL__VOCABULARY__OF_DATASETS": [f"all_of_coco={path}"]}
        error = error_of(world, tmp_path / "run", capsys, **options)
    assert "DATASETS.TEST all_of_coco: The vocabulary (65 names, 17 novel" in error and "lacks 15 of 80 names" in error


def test_wrong_words_are_refused_before_evaluation_starts(world: World, other: str, tmp_path: Path, capsys) -> None:
    weights = world.train(tmp_path / "run", SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0) / "model_final.pth"
    for wrong, message in ((("thing_a",), "lacks 2 of 3 names"), (OTHER, "text embeddings of width 16")):
        path = saved(tmp_path / "wrong.npz", *wrong, width=8, novel=())
        options = {"DATASETS__TEST": ("other_val", "mini_lvis_val"), "MODEL__WEIGHTS": weights}
        options["MODEL__VOCABULARY__OF_DATASETS"] = [f"other_val={path}"]
        error = error_of(world, tmp_path / "again", capsys, eval_only=True, **options)
        assert error.startswith("error: DATASETS.TEST other_val: ") and message in error
        assert not (tmp_path / "again" / "inference").exists() and not (tmp_path / "again" / "results.json").exists()


def test_what_cannot_be_evaluated_is_not_trained(world: World, tmp_path: Path, capsys) -> None:
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_val.json").read_text())
    for image in content["images"]:
        del image["neg_category_ids"]
    json_file = write_json(tmp_path / "not_federated.json", content)
    for kind, message in (("lvis", 'image 1 has no "neg_category_ids"'), ("panoptic", 'no protocol "panoptic"')):
        with registered("mine", json_file, world, kind):
            error = error_of(world, tmp_path / "run", capsys, DATASETS__TEST=("mine",))
        assert error.startswith("error: DATASETS.TEST mine: ") and message in error
    assert 'it may hold "proposals"' in error_of(world, tmp_path / "run", capsys, TEST__ALSO_RECALL_OF=["queries"])


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_test_image_that_is_not_there_is_found_before_anything_starts(
    world: World, tmp_path: Path, capsys, eval_only: bool
) -> None:
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_val.json").read_text())
    content["images"][-1]["file_name"] = "train/gone.png"
    options: dict[str, Any] = {"DATASETS__TEST": ("mini_lvis_val", "mine")}
    if eval_only:
        trained = world.train(tmp_path / "trained", SOLVER__MAX_ITER=1, SOLVER__WARMUP_ITERS=0)
        options["MODEL__WEIGHTS"] = trained / "model_final.pth"
    with registered("mine", write_json(tmp_path / "mine.json", content), world, "lvis"):
        error = error_of(world, tmp_path / "run", capsys, eval_only=eval_only, **options)
    assert "train/gone.png of mine is not there" in error
    assert not (tmp_path / "run" / "inference").exists()


def test_images_of_a_test_set_are_looked_for_once_in_a_run_however_often_it_is_evaluated(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for, evaluated = [], []
    monkeypatch.setattr("dk_detr.engine.evaluate.require_images", lambda records, name, _: looked_for.append(name))
    monkeypatch.setattr(
        "dk_detr.engine.evaluate.inference_on_dataset", lambda *_: evaluated.append("mini_lvis_test") or {}
    )
    options = {"SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0, "TEST__EVAL_PERIOD": 1}
    run = world.train(tmp_path / "run", **options)
    assert (looked_for, evaluated) == (["mini_lvis_test"], ["mini_lvis_test"] * 2)
    world.train(tmp_path / "again", eval_only=True, MODEL__WEIGHTS=run / "model_final.pth")
    assert (looked_for, evaluated) == (["mini_lvis_test"] * 2, ["mini_lvis_test"] * 3)
    trained = words_of_checkpoint(str(run / "model_final.pth"))
    assert trained is not None and trained.names == NAMES[:2], "a checkpoint with all that a run needs to go on"


def test_evaluation_without_a_data_set_is_refused(world: World, tmp_path: Path, capsys) -> None:
    error = error_of(world, tmp_path / "run", capsys, eval_only=True, DATASETS__TEST=())
    assert error == "error: --eval-only needs a data set: DATASETS.TEST is empty.\n"


def test_words_of_the_default_vocabulary_that_are_not_those_of_a_test_set_are_refused(
    world: World, other: str, tmp_path: Path, capsys
) -> None:
    error = error_of(world, tmp_path / "run", capsys, DATASETS__TEST=("mini_lvis_val", "other_val"))
    assert "DATASETS.TEST other_val: The vocabulary (3 names, 1 novel" in error and "lacks 3 of 3 names" in error


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("words.npz", 'holds "words.npz"; wanted "name=file"'),
        ("mini_lvis_val=a.npz mini_lvis_val=b.npz", "names a data set twice: mini_lvis_val=a.npz, mini_lvis_val=b.npz"),
        ("coco_2017_val=words.npz", "names coco_2017_val, which is not in DATASETS.TEST (mini_lvis_val)"),
        ("mini_lvis_val=nowhere.npz", "There is no vocabulary nowhere.npz"),
    ],
)
def test_a_wrong_entry_of_the_list_is_named(world: World, tmp_path: Path, capsys, entry, message) -> None:
    options = {"DATASETS__TEST": ("mini_lvis_val",), "MODEL__VOCABULARY__OF_DATASETS": entry.split()}
    assert message in error_of(world, tmp_path / "run", capsys, **options)


def test_the_recall_of_the_first_stage_is_reported_if_asked_for(world: World, tmp_path: Path, capsys) -> None:
    options = {"SOLVER__MAX_ITER": 1, "SOLVER__WARMUP_ITERS": 0, "TEST__ALSO_RECALL_OF": ["proposals"]}
    output = world.train(tmp_path / "run", **options)
    results = (read_results(str(output)) or {})["results"]
    assert set(results["proposals"]) == {f"AR@{n}{group}" for n in (100, 300) for group in ("", "-base", "-novel")}
    assert all(0 <= points <= 100 for points in results["proposals"].values())
    options |= {"TEST__ALSO_RECALL_OF": ["queries"], "MODEL__WEIGHTS": output / "model_final.pth"}
    with pytest.raises(SystemExit):
        world.train(tmp_path / "again", eval_only=True, **options)
    assert 'TEST.ALSO_RECALL_OF holds "queries"; it may hold "proposals"' in capsys.readouterr().err


def test_evaluation_during_training_leaves_base_and_novel_for_the_curves(world: World, tmp_path: Path) -> None:
    options = {"SOLVER__MAX_ITER": 6, "SOLVER__WARMUP_ITERS": 0, "TEST__EVAL_PERIOD": 2}
    output = world.train(tmp_path / "run", **options)
    lines = [json.loads(line) for line in (output / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 3, 5, 6]  # in order: a lower one would tell of a restart
    history = read_metrics(output / "metrics.json")
    for name in ("bbox/AP", "bbox/AP50-base", "bbox/AP50-novel", "bbox/APr", "bbox/AR@100-novel"):
        assert series(history, name)[0] == [1, 3, 6]  # of the last evaluation, the iterations done
    assert series(history, "loss_class")[0] == [1, 3, 5]
