"""What tools/compare_runs.py promises: each config trained, one picture, one table, and nothing done twice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from dk_detr.commands.compare_runs.matching import changes_of_matching, has_steady_queries, matched_queries
from dk_detr.commands.compare_runs.runs import refuse_other_runs, runs_of
from dk_detr.engine import setup_cfg
from dk_detr.visualization.comparison import curve_of, draw, table
from tests.model_fixtures import stir, tiny_input
from tests.run_fixtures import REPOSITORY, World

MINI = REPOSITORY / "configs" / "mini"
HISTORY = {number: {"time": 0.5, "bbox/AP50-base": 10.0 * number, "bbox/AP50-base-unseen": 1.0} for number in (1, 3, 5)}


@pytest.fixture
def compare(run_tool, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the tool on two small configs for two iterations; returns its exit status."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))

    def run(*more: object, **options: Any) -> int:
        names = [MINI / f"{name}.yaml" for name in ("dn_detr", "dino")]
        opts = world.options(SOLVER__MAX_ITER=2, MODEL__DETR__DECODER_LAYERS=2, **options)
        arguments = ("--output", tmp_path, "--period", 1, "--parallel", 2, *more, "--opts", *opts)
        with world.in_use():
            return run_tool("compare_runs.py", "--config-file", *names, *arguments)

    return run


def test_each_config_is_trained_once_drawn_and_listed(compare, tmp_path: Path, capsys) -> None:
    assert compare() == 0
    printed = capsys.readouterr().out
    lines = (tmp_path / "comparison.md").read_text()
    assert lines in printed and "AP50-base, end" in lines
    rows = {line.split("|")[1].strip(): line for line in lines.splitlines()[2:]}
    assert list(rows) == ["dn_detr", "dino"] and "%" in rows["dn_detr"] and "%" not in rows["dino"]
    assert Image.open(tmp_path / "comparison.png").width > 500
    written = (tmp_path / "dino" / "model_final.pth").stat().st_mtime_ns
    assert compare() == 0
    assert (tmp_path / "dino" / "model_final.pth").stat().st_mtime_ns == written


def test_a_run_that_fails_is_named_with_the_end_of_its_log(compare, tmp_path: Path, capfd) -> None:
    assert compare(DATASETS__TRAIN=("nowhere",)) == 1
    said = capfd.readouterr().err
    assert "stopped with exit status 1" in said and str(tmp_path) in said and "nowhere" in said


def test_two_configs_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='Two configs are called "detr"'):
        runs_of(["a/detr.yaml", "b/detr.yaml"], tmp_path, [], 10)


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


def test_the_table_shows_metrics_halfway_and_at_the_end() -> None:
    lines = table({"one": HISTORY}, ["AP50-base"], {"one": ([3, 5], [40.0, 20.0])}, {"one": 1.25}).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "one",
        "30.0",
        "50.0",
        "30.0 %",
        "20.0 %",
        "1.25",
        "0.500",
    ]


def test_a_curve_counts_iterations_from_one_and_takes_the_very_metric() -> None:
    assert curve_of(HISTORY, "AP50-base") == ([2, 4, 6], [10.0, 30.0, 50.0])
    assert draw({"AP50-base": {"one": curve_of(HISTORY, "AP50-base")}}).shape[2] == 3


def test_a_metric_that_was_not_recorded_is_refused_with_those_that_were() -> None:
    with pytest.raises(
        ValueError, match='--metric "AP50_base" was not recorded; these were: AP50-base, AP50-base-unseen'
    ):
        curve_of(HISTORY, "AP50_base")


def test_a_folder_with_a_run_of_other_settings_is_refused_by_the_key(world: World, tmp_path: Path) -> None:
    options = world.options()
    (run,) = runs_of([str(MINI / "detr.yaml")], tmp_path, options, 10)
    run.folder.mkdir()
    (run.folder / "config.yaml").write_text(run.cfg.dump())
    refuse_other_runs([run])
    (changed,) = runs_of([str(MINI / "detr.yaml")], tmp_path, [*options, "SEED", "7"], 10)
    with pytest.raises(ValueError, match="holds a run of other settings: SEED was 0, now 7. Choose another --output"):
        refuse_other_runs([changed])


def test_no_run_at_a_time_is_refused(compare, capsys) -> None:
    assert compare("--parallel", 0) == 1
    assert "--parallel and --period must be 1 or more, got 0 and 1" in capsys.readouterr().err
