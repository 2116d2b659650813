"""What tools/interpolate_weights.py promises: weights between start and tuned, with where they are from, tested."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dk_detr.commands.interpolate_weights import write_between
from dk_detr.engine import setup_cfg
from tests.keep_fixtures import NEW, few_labels, trained
from tests.run_fixtures import NAMES, World, own_log_handlers, state_of, world_with_masks

KEPT = "mini_lvis_val"


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning of which nothing is kept."""
    folder = tmp_path_factory.mktemp("tuned")
    options = {**few_labels(world, folder), "MODEL__WEIGHTS": trained(world, folder / "start")}
    return world.train(folder / "run", **options, DATASETS__KEEP=(KEPT,))


@pytest.fixture
def tool(run_tool: Callable[..., int], world: World) -> Callable[..., int]:
    def call(*arguments: object) -> int:
        with world.in_use(), own_log_handlers():
            return run_tool("interpolate_weights.py", *arguments)

    return call


def test_each_share_is_stored_and_tested_and_done_once(
    tool: Callable[..., int], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool(run, "--alpha", "0.25", "1") == 0
    table = (run / "interpolation.md").read_text()
    assert table in capsys.readouterr().out and f"{KEPT}, AP50-base" in table and "nan" not in table
    ends = (run.parent / "start" / "model_final.pth", run / "model_final.pth")
    start, tuned = (state_of(path)["model"] for path in ends)
    saved = state_of(run / "model_interpolated_0.25.pth")
    name = "encoder.level_embed"
    assert torch.allclose(saved["model"][name], 0.75 * start[name] + 0.25 * tuned[name])
    assert saved["provenance"]["alpha"] == 0.25 and saved["provenance"]["tuned"]["name"] == "model_final.pth"
    assert saved["words"]["names"] == [NEW] and saved["words"]["before"] == sorted(NAMES[:2])

    whole = json.loads((run / "interpolated/1.00/results.json").read_text())["results"][KEPT]["bbox"]
    of_run = json.loads((run / "results.json").read_text())["results"][KEPT]["bbox"]
    assert whole["AP50-base"] == of_run["AP50-base"], "the share 1 is the tuned detector"

    files = (*run.glob("model_*.pth"), *run.glob("interpolated/*/results.json"))
    times = {path: path.stat().st_mtime_ns for path in files}
    assert tool(run, "--alpha", "0.25", "1") == 0
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_start_with_masks_is_taken_as_the_run_of_boxes_took_it(
    run_tool: Callable[..., int], tmp_path: Path
) -> None:
    world = world_with_masks(tmp_path / "world")
    start = trained(world, tmp_path / "start", MODEL__MASK_ON=True, MODEL__DETR__MASKS="Dynamic")
    run = world.train(tmp_path / "run", **few_labels(world, tmp_path), MODEL__WEIGHTS=start)
    with world.in_use(), own_log_handlers():
        assert run_tool("interpolate_weights.py", run, "--alpha", "0.5") == 0
    names = state_of(run / "model_interpolated_0.50.pth")["model"]
    assert names.keys() == state_of(run / "model_final.pth")["model"].keys() < state_of(start)["model"].keys()


def test_weights_of_another_start_are_written_anew(run: Path, world: World, tmp_path: Path) -> None:
    start, tuned = run.parent / "start" / "model_final.pth", run / "model_final.pth"
    with world.in_use():
        cfg = setup_cfg(str(run / "config.yaml"))
        (path,) = write_between(cfg, start, tuned, [0.5], tmp_path)
        first = path.read_bytes()
        write_between(cfg, tuned, tuned, [0.5], tmp_path)
    assert path.read_bytes() != first
    assert torch.equal(state_of(path)["model"]["encoder.level_embed"], state_of(tuned)["model"]["encoder.level_embed"])


def test_what_cannot_be_interpolated_is_refused(
    tool: Callable[..., int], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = state_of(run / "model_final.pth")
    del other["model"]["encoder.level_embed"]
    torch.save({"model": other["model"]}, tmp_path / "other.pth")
    for arguments, message in (
        ((run, "--start", tmp_path / "other.pth"), "is no whole detector: encoder.level_embed starts new (1 such)"),
        ((run, "--start", tmp_path / "gone.pth"), "There are no weights"),
        ((run, "--alpha", "1.5"), "--alpha takes different shares in [0, 1]"),
        ((tmp_path,), "holds no finished run: config.yaml is missing"),
    ):
        assert tool(*arguments) == 1
        assert message in capsys.readouterr().err
