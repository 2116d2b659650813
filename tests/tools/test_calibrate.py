"""tools/calibrate.py: from a config and images to the file that training reads."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dk_detr.distillation.calibration_file import read_calibration
from tests.calibration_fixtures import clip_of, make_calibrated_world
from tests.run_fixtures import MINI, NUM_IMAGES, REPOSITORY, WIDTH, World, own_log_handlers

REAL = [REPOSITORY / "datasets" / "mini_lvis" / ".done", REPOSITORY / "output" / "mini" / "vocabulary.npz"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_calibrated_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def calibrate(world: World, run_tool: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the tool in the tiny world; returns what it says."""

    def run(output: Path | None, *arguments: Any, **more: Any) -> str:
        options = world.options(**{"MODEL__CLIP__WEIGHTS": world.root / "clip.pt", **more})
        to = ["--output", output] if output else []
        with world.in_use(), own_log_handlers():
            status = run_tool("calibrate.py", "--config-file", MINI, *to, *arguments, *options)
        said = capsys.readouterr()
        assert (status == 1) == ("error: " in said.err)
        return said.err.partition("error: ")[2] if status else said.out

    return run


def test_the_file_says_what_was_fitted_and_to_what(calibrate: Callable[..., str], world: World, tmp_path: Path) -> None:
    output = tmp_path / "below" / "calibration.json"
    said = calibrate(output)
    content, stored = json.loads(output.read_text()), read_calibration(str(output))
    assert content["data"] == {
        "data_sets": ["mini_lvis_train_norare"], "images": NUM_IMAGES, "base_words": 2, "prompt": "",
    }  # fmt: skip
    assert stored.probe == clip_of(world).probe and stored.width == WIDTH and stored.crop_scales == (1.0, 1.5)
    for name in ("classifier", "semantic"):
        own, wrong = (content[name][sort]["0.50"] for sort in ("own", "nearest_wrong"))
        assert own > wrong and content[name]["offset"] == pytest.approx((own + wrong) / 2, abs=2e-5)
        assert 10 <= content[name]["samples"] <= 2 * NUM_IMAGES  # a red and a green box on each image; blue is novel
        assert content[name]["temperature"] == pytest.approx((own - wrong) / 2 / 1.386294, abs=2e-5)
    assert f"MODEL.CALIBRATION {output}" in said
    assert Image.open(output.with_suffix(".png")).width > 1000


def test_it_writes_where_the_config_expects_it(calibrate: Callable[..., str], world: World, tmp_path: Path) -> None:
    wanted = tmp_path / "expected.json"
    calibrate(None, MODEL__CALIBRATION=wanted)
    assert read_calibration(str(wanted)).width == WIDTH
    assert "MODEL.CALIBRATION of the config names no file: say it by --output" in calibrate(None)


def test_two_processes_write_the_same_file(calibrate: Callable[..., str], world: World, tmp_path: Path) -> None:
    tool = [sys.executable, str(REPOSITORY / "tools" / "calibrate.py"), "--config-file", MINI]
    options = world.options(MODEL__CLIP__WEIGHTS=world.root / "clip.pt")
    environment = {**os.environ, "DETECTRON2_DATASETS": str(world.root)}
    written = []
    for name in ("a.json", "b.json"):
        command = [*tool, "--output", str(tmp_path / name), "--images", "6", *options]
        subprocess.run(command, check=True, capture_output=True, env=environment)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1] and json.loads(written[0])["data"]["images"] == 6
    calibrate(tmp_path / "c.json", "--images", 6, DATALOADER__NUM_WORKERS=2)
    assert (tmp_path / "c.json").read_bytes() == written[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"MODEL__DETR__CLASSIFIER__NAME": "Linear"}, "compares with no embeddings"),
        ({"MODEL__CLIP__WEIGHTS": "''"}, "random embeddings calibrate nothing"),
        ({"MODEL__KD__MIN_SIDE": 1000.0}, "The classifier .CosineText. cannot be calibrated: 0 samples are too few"),
    ],
)
def test_what_cannot_be_calibrated_is_said_in_one_line(
    more: dict[str, Any], message: str, calibrate: Callable[..., str], tmp_path: Path
) -> None:
    said = calibrate(tmp_path / "a.json", **more)
    assert said.count("\n") == 1 and not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        raise ValueError(said)


def test_an_output_that_is_no_json_and_no_images_are_refused(calibrate: Callable[..., str], tmp_path: Path) -> None:
    assert "must end in .json" in calibrate(tmp_path / "a.png")
    assert "be 1 or more" in calibrate(tmp_path / "a.json", "--images", 0)


@pytest.mark.skipif(not all(path.exists() for path in REAL), reason="make demo has not built the mini world here")
def test_in_the_mini_world_it_finds_what_was_found_by_hand(
    run_tool: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with own_log_handlers():
        assert run_tool("calibrate.py", "--config-file", MINI, "--output", tmp_path / "a.json", "--images", 60) == 0
    found = read_calibration(str(tmp_path / "a.json"))
    assert found.classifier.offset == pytest.approx(0.885, abs=0.015)
    assert found.classifier.temperature == pytest.approx(0.048, abs=0.008)
    assert 0.8 < found.semantic.offset < 0.95
