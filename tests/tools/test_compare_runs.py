"""What tools/compare_runs.py promises: each config trained, one picture, one table, and nothing done twice."""

import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from PIL import Image

from dk_detr.commands.compare_runs.also_test import AlsoTest, Evaluation, also_tests
from dk_detr.commands.compare_runs.matching import changes_of_matching, has_steady_queries, matched_queries
from dk_detr.commands.compare_runs.runs import Job, names_of, refuse_mixed_folders, refuse_other_runs, runs_of
from dk_detr.data import datasets_below, datasets_root
from dk_detr.data.bank.fingerprints import unequal
from dk_detr.engine import setup_cfg
from dk_detr.engine.run_folder import write_results
from tests.keep_fixtures import few_labels, trained
from tests.model_fixtures import stir, tiny_input
from tests.run_fixtures import REPOSITORY, World, make_world, own_log_handlers, state_of, write_json

MINI = REPOSITORY / "configs" / "mini"


@pytest.fixture
def compare(run_tool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the tool on small configs for two iterations; returns its exit status."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def run(*more: object, configs: Sequence[str] = ("dn_detr", "dino"), **options: Any) -> int:
        names = [MINI / f"{name}.yaml" for name in configs]
        opts = world.options(SOLVER__MAX_ITER=2, MODEL__DETR__DECODER_LAYERS=2, **options)
        arguments = ("--output", tmp_path, "--period", 1, "--parallel", 2, *more, "--opts", *opts)
        with world.in_use():
            return run_tool("compare_runs.py", "--config-file", *names, *arguments)

    return run


def test_each_config_is_trained_once_drawn_and_listed(compare, tmp_path: Path, capsys) -> None:
    assert compare() == 0
    printed = capsys.readouterr().out
    lines = (tmp_path / "comparison.md").read_text()
    assert lines in printed and "AP50-base, halfway" in lines and "At the end and halfway: mini_lvis_test." in lines
    rows = {line.split("|")[1].strip(): line for line in lines.splitlines()[2:4]}
    assert list(rows) == ["dn_detr", "dino"] and "%" in rows["dn_detr"] and "%" not in rows["dino"]
    assert Image.open(tmp_path / "comparison.png").width > 500
    written = (tmp_path / "dino" / "model_final.pth").stat().st_mtime_ns
    assert compare() == 0
    assert (tmp_path / "dino" / "model_final.pth").stat().st_mtime_ns == written


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch, run_tool) -> None:
    """What the tool would do in processes of their own is done in this one, by the same commands, which saves time."""

    def work_here(jobs: Sequence[Job], *_: object) -> None:
        for job in [job for job in jobs if not job.is_done]:
            with datasets_below(job.root or datasets_root()), own_log_handlers():
                assert run_tool("train_net.py", *job.command(Path("train_net.py"))[2:]) == 0

    monkeypatch.setattr(import_module("dk_detr.commands.compare_runs.main"), "work", work_here)


@pytest.fixture
def second_world(tmp_path: Path) -> Path:
    """Another DETECTRON2_DATASETS, whose test split has three images."""
    root = make_world(tmp_path / "datasets 1").root
    file = root / "mini_lvis" / "annotations" / "mini_lvis_test.json"
    content = json.loads(file.read_text())
    images = content["images"][:3]
    boxes = [box for box in content["annotations"] if box["image_id"] in {image["id"] for image in images}]
    write_json(file, {**content, "images": images, "annotations": boxes})
    return root


@pytest.mark.usefixtures("in_this_process")
def test_each_seed_is_trained_and_tested_on_every_data_set_once(compare, second_world: Path, tmp_path: Path) -> None:
    second = f"mini_lvis_test@{second_world}"
    asked = ("--seeds", 0, 3, "--also-test", "mini_lvis_val", "--also-test", second)
    assert compare(*asked, configs=["dino"]) == 0
    header, _, row, _, note = (tmp_path / "comparison.md").read_text().splitlines()
    tests = ["AP50-base, end", "AP50-base, mini_lvis_val", f"AP50-base, {second}"]
    assert [cell.strip() for cell in header.split("|")[1:5]] == ["", *tests]
    assert row.split("|")[1].strip() == "dino" and row.count("±") == 5
    assert note == "At the end: mini_lvis_test. Mean ± half the range, and the values of seeds 0, 3."

    folders = [tmp_path / "dino" / seed for seed in "03"]
    assert [yaml.safe_load((folder / "config.yaml").read_text())["SEED"] for folder in folders] == [0, 3]
    first, other = (state_of(folder / "model_final.pth")["model"] for folder in folders)
    assert any(not torch.equal(weights, other[name]) for name, weights in first.items())

    on_val = folders[1] / "evaluation" / "mini_lvis_val"
    of_run, beside = (json.loads((path / "results.json").read_text()) for path in (folders[1], on_val))
    assert of_run["results"] == beside["results"]  # the small world has the same images in both splits
    (detections,) = (folders[1] / "evaluation").glob("mini_lvis_test@*/inference/mini_lvis_test/lvis_results.json")
    assert {detection["image_id"] for detection in json.loads(detections.read_text())} == {1, 2, 3}

    (on_val / "results.json").unlink()
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "dino").rglob("*") if path.is_file()}
    assert compare(*asked, configs=["dino"]) == 0
    assert (on_val / "results.json").is_file()
    again = [path for path, time in written.items() if path.stat().st_mtime_ns != time]
    assert again and all(path.is_relative_to(on_val) for path in again)


@pytest.mark.usefixtures("in_this_process")
def test_fine_tunings_that_bring_their_words_are_compared_by_a_data_set_of_their_own(
    compare, world: World, tmp_path: Path
) -> None:
    start = trained(world, tmp_path / "start", MODEL__DETR__DECODER_LAYERS=2)
    tuning = {**few_labels(world, tmp_path), "MODEL__WEIGHTS": start, "DATASETS__KEEP": ("mini_lvis_val",)}
    del tuning["SOLVER__MAX_ITER"]
    assert compare("--metric", "mini_lvis_val/bbox/AP50-base", "--period", 2, configs=["Base-keep"], **tuning) == 0
    header = (tmp_path / "comparison.md").read_text().splitlines()[0]
    assert all(f"mini_lvis_val/bbox/AP50-base, {when}" in header for when in ("before", "end"))
    before = json.loads((tmp_path / "Base-keep/before.json").read_text())["results"]
    assert sorted(before) == ["custom_val", "mini_lvis_val"]


def test_a_run_that_fails_is_named_with_the_end_of_its_log(compare, tmp_path: Path, capfd) -> None:
    assert compare(DATASETS__TRAIN=("nowhere",)) == 1
    said = capfd.readouterr().err
    assert "stopped with exit status 1" in said and str(tmp_path) in said and "nowhere" in said


def test_matching_that_stays_has_no_changes_and_shuffled_queries_change_it_for_all(
    world: World, tmp_path: Path
) -> None:
    with world.in_use():
        cfg = setup_cfg(str(MINI / "dab_detr.yaml"), world.options(OUTPUT_DIR=tmp_path, MODEL__DETR__DECODER_LAYERS=2))
        detector = stir(build_model(cfg))
        for iteration in (0, 1):
            torch.save({"model": detector.state_dict()}, tmp_path / f"model_{iteration:07d}.pth")
        with torch.no_grad():  # each query takes the place of the one before it
            detector.queries.anchors.weight.copy_(detector.queries.anchors.weight.roll(1, 0))
        torch.save({"model": detector.state_dict()}, tmp_path / "model_0000002.pth")
        assert changes_of_matching(cfg, tmp_path, num_images=3) == {2: 0.0, 3: 1.0}


def test_every_object_has_the_query_that_the_criterion_gives_it(world: World) -> None:
    with world.in_use():
        detector = stir(build_model(setup_cfg(str(MINI / "detr.yaml"), world.options()))).eval()
    image = torch.full((3, 64, 64), 90.0)
    samples = [{**tiny_input((64, 64), num_objects=count, seed=count), "image": image} for count in (2, 0, 1)]
    for sample in samples:
        sample["instances"].gt_classes.clamp_(max=1)
    queries = matched_queries(detector, samples)
    assert len(queries) == 3 and len(set(queries[:2].tolist())) == 2 and queries.min() >= 0


@pytest.mark.parametrize(("name", "steady"), [("detr", True), ("dab_detr", True), ("dino", False), ("dk_detr", False)])
def test_matching_is_followed_where_a_query_is_the_same_in_each_image(name: str, steady: bool) -> None:
    assert has_steady_queries(setup_cfg(str(MINI / f"{name}.yaml"))) is steady


def test_a_folder_with_a_run_of_other_settings_is_refused_by_the_key(world: World, tmp_path: Path) -> None:
    options = world.options()
    (run,) = runs_of([str(MINI / "detr.yaml")], tmp_path, options, 10)
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    refuse_other_runs([run])
    (changed,) = runs_of([str(MINI / "detr.yaml")], tmp_path, [*options, "SEED", "7"], 10)
    with pytest.raises(ValueError, match="holds a run of other settings: SEED was 0, now 7. Choose another --output"):
        refuse_other_runs([changed])


def test_a_run_of_an_earlier_version_goes_on_where_new_keys_are_at_their_defaults(world: World, tmp_path: Path) -> None:
    (run,) = runs_of([str(MINI / "detr.yaml")], tmp_path, world.options(), 10)
    run.folder.mkdir()
    older = run.cfg.clone()
    older.defrost()
    del older.MODEL.DETR["MASKS"], older.MODEL.DETR.LOSS["MASK_WEIGHTS"]
    (run.folder / "config.yaml").write_text(older.dump())
    refuse_other_runs([run])
    older.MODEL.DETR.OF_THEN = "gone"
    (run.folder / "config.yaml").write_text(older.dump())
    with pytest.raises(ValueError, match="MODEL.DETR.OF_THEN was 'gone', now None"):
        refuse_other_runs([run])


def test_a_run_of_an_earlier_version_is_none_of_what_came_later(world: World, tmp_path: Path) -> None:
    (run,) = runs_of([str(MINI / "detr.yaml")], tmp_path, [*world.options(), "MODEL.DETR.MASKS", "Dynamic"], 10)
    run.folder.mkdir()
    older = run.cfg.clone()
    older.defrost()
    del older.MODEL.DETR["MASKS"]
    (run.folder / "config.yaml").write_text(older.dump())
    with pytest.raises(ValueError, match="MODEL.DETR.MASKS was '', now 'Dynamic'"):
        refuse_other_runs([run])


@pytest.mark.parametrize(
    ("text", "name", "root", "vocabulary"),
    [
        ("voc", "voc", None, None),
        ("voc@/a/b", "voc", "/a/b", None),
        ("voc=a/w.npz", "voc", None, "a/w.npz"),
        ("voc@b=a/w.npz", "voc", "b", "a/w.npz"),
    ],
)
def test_a_further_test_has_a_name_a_place_and_words(
    text: str, name: str, root: str | None, vocabulary: str | None
) -> None:
    assert also_tests([text]) == [AlsoTest(text, name, root, vocabulary)]


def test_a_further_test_is_the_run_with_another_data_set_its_words_and_the_final_weights(
    world: World, tmp_path: Path
) -> None:
    options = world.options(MODEL__VOCABULARY__OF_DATASETS="['mini_lvis_test=own.npz']")
    (run,) = runs_of([str(MINI / "dk_detr.yaml")], tmp_path, options, 10, [4])
    words = {}
    for test in also_tests(["mini_lvis_val=val.npz", "mini_lvis_val", "mini_lvis_test@there"]):
        evaluation = Evaluation(run, test)
        trained, tested = (yaml.safe_load(cfg.dump()) for cfg in (run.cfg, evaluation.cfg))
        changed = {key: now for key, _, now in unequal(trained, tested)}
        words[test.text] = changed.pop("MODEL.VOCABULARY.OF_DATASETS", ["mini_lvis_test=own.npz"])
        assert changed.pop("MODEL.WEIGHTS") == str(tmp_path / "dk_detr" / "4" / "model_final.pth")
        assert changed.pop("OUTPUT_DIR") == str(evaluation.folder)
        assert changed.keys() <= {"DATASETS.TEST"} and list(evaluation.cfg.DATASETS.TEST) == [test.name]
    assert words == {
        "mini_lvis_val=val.npz": ["mini_lvis_val=val.npz"],
        "mini_lvis_val": [],
        "mini_lvis_test@there": ["mini_lvis_test=own.npz"],
    }


def test_tests_of_other_places_and_words_have_other_folders(tmp_path: Path) -> None:
    (run,) = runs_of(["detr.yaml"], tmp_path, [], 10)
    texts = ["voc", "voc@a/b", "voc@a_b", "voc@a%2Fb", "voc=a/b", "voc@a=b"]
    folders = [Evaluation(run, test).folder for test in also_tests(texts)]
    assert len({*folders}) == len(texts) and {folder.parent for folder in folders} == {run.folder / "evaluation"}


def test_an_evaluation_of_fewer_iterations_is_done_again(tmp_path: Path) -> None:
    (run,) = runs_of([str(MINI / "detr.yaml")], tmp_path, ["SOLVER.MAX_ITER", "20"], 10)
    evaluation = Evaluation(run, *also_tests(["mini_lvis_val"]))
    for iteration, done in ((10, False), (20, True)):
        evaluation.folder.mkdir(parents=True, exist_ok=True)
        write_results(str(evaluation.folder), iteration, {"bbox": {"AP50": 1.5}}, weights="model.pth")
        assert evaluation.is_done is done
    assert evaluation.scores == {"AP50": 1.5}


def test_rows_are_configs_with_options_of_their_own(tmp_path: Path) -> None:
    rows = [["slow", "a/detr.yaml", "SOLVER.BASE_LR", "0.1"], ["fast", "a/detr.yaml"]]
    plain, slow, fast = runs_of(["detr.yaml"], tmp_path, ["TEST.DETECTIONS_PER_IMAGE", "5"], 10, rows=rows)
    assert [run.name for run in (plain, slow, fast)] == ["detr", "slow", "fast"]
    assert slow.folder == tmp_path / "slow" and slow.config_file == "a/detr.yaml"
    assert slow.options[:4] == ("TEST.DETECTIONS_PER_IMAGE", "5", "SOLVER.BASE_LR", "0.1")
    assert "SOLVER.BASE_LR" not in fast.options and "SOLVER.BASE_LR" not in plain.options


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a/detr.yaml"]], "--row takes NAME FILE and pairs KEY VALUE, got a/detr.yaml"),
        ([["one", "detr.yaml", "SEED"]], "--row takes NAME FILE and pairs"),
        ([["detr.yaml", "dab_detr.yaml"]], "--row detr.yaml: the first word is the name of the row"),
        ([["a/b", "detr.yaml"]], "--row a/b: the first word"),
        ([["DETR", "dab_detr.yaml"]], 'Two rows would be called "detr": give a --row another name'),
        ([["one", "detr.yaml", "SEED", "3"]], "--seeds and SEED in --opts or --row both say the seed"),
    ],
)
def test_rows_that_are_none_are_refused(rows: list[list[str]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        runs_of(["detr.yaml"], tmp_path, [], 10, (0, 1), rows)


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Nothing to compare: name configs, --config-file FILE …, or rows"):
        runs_of([], tmp_path, [], 10)


def test_runs_with_seeds_and_without_do_not_share_a_folder(tmp_path: Path) -> None:
    (single,), seeded = runs_of(["detr.yaml"], tmp_path, [], 10), runs_of(["detr.yaml"], tmp_path, [], 10, (0, 1))
    assert [run.folder for run in seeded] == [tmp_path / "detr" / "0", tmp_path / "detr" / "1"]
    refuse_mixed_folders([single, *seeded])
    write_json(single.folder / "config.yaml", {})
    refuse_mixed_folders([single])
    with pytest.raises(ValueError, match="detr holds a run without --seeds. Choose another --output, or leave out"):
        refuse_mixed_folders(seeded)
    (single.folder / "config.yaml").unlink()
    write_json(seeded[1].folder / "config.yaml", {})
    refuse_mixed_folders(seeded)
    with pytest.raises(ValueError, match="detr holds runs of seeds 1. Choose another --output, or add --seeds"):
        refuse_mixed_folders([single])


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["configs/mini/vild.yaml", "configs/mini/detr.yaml"], ["vild", "detr"]),
        (["a/detr.yaml", "/b/detr.yaml"], ["a-detr", "b-detr"]),
        (["a/mini/detr.yaml", "b/mini/Detr.yaml", "dino.yaml"], ["a-mini-detr", "b-mini-Detr", "dino"]),
        (
            ["configs/mini/vild.yaml", "projects/ViLD/configs/mini/ViLD.yaml"],
            ["configs-mini-vild", "ViLD-configs-mini-ViLD"],
        ),
    ],
)
def test_configs_are_called_by_as_much_of_their_path_as_tells_them_apart(files: list[str], names: list[str]) -> None:
    assert names_of(files) == names


@pytest.mark.parametrize(
    "files", [["a.yaml", "./a.yaml"], ["/a/b.yaml", "a/b.yaml"], ["a/b.yaml", "c/b.yaml", "a-b.yaml"]]
)
def test_configs_that_would_share_a_folder_are_refused(files: list[str]) -> None:
    with pytest.raises(ValueError, match="is given twice, or cannot be told from another by its folders"):
        names_of(files)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", 0, 1, 0), "--seeds must be different numbers from 0 on, got 0 1 0."),
        (("--seeds", -1), "--seeds must be different numbers from 0 on, got -1."),
        (("--seeds", 0, 1, "--baseline", "detr"), "--baseline detr is none of the rows; these are: dn_detr, dino."),
        (
            ("--baseline", "dino"),
            "--baseline compares differences with the spread of seeds. Give several: --seeds 0 1 2.",
        ),
        (("--also-test", "val@"), '--also-test "val@" is not of the form NAME[@FOLDER][=VOCABULARY].'),
        (("--also-test", "val", "--also-test", "val"), "--also-test val is given twice."),
        (("--also-test", "mini_lvis_test"), "--also-test mini_lvis_test: dn_detr is evaluated on it anyway"),
        (("--also-test", "mini_lvis_vla"), 'There is no data set "mini_lvis_vla"'),
        (("--also-test", "mini_lvis_val@nowhere"), "needs nowhere/mini_lvis/annotations/mini_lvis_val.json"),
        (("--also-test", "mini_lvis_val=nowhere.npz"), "nowhere.npz"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line_before_any_training(
    compare, tmp_path: Path, capsys, options: Sequence[object], said: str
) -> None:
    assert compare(*options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line
    assert not list(tmp_path.glob("d*"))


def test_a_seed_is_said_once(compare, capsys) -> None:
    assert compare("--seeds", 0, 1, SEED=3) == 1
    assert "--seeds and SEED in --opts or --row both say the seed. Give one of them." in capsys.readouterr().err


def test_the_only_config_has_nothing_to_be_compared_with(compare, capsys) -> None:
    assert compare("--seeds", 0, 1, "--baseline", "dino", configs=["dino"]) == 1
    assert "--baseline dino is the only row. Give another, --config-file or --row." in capsys.readouterr().err


def test_no_run_at_a_time_is_refused(compare, capsys) -> None:
    assert compare("--parallel", 0) == 1
    assert "--parallel and --period must be 1 or more, got 0 and 1" in capsys.readouterr().err
