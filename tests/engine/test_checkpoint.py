"""SafeCheckpointer: takes weights that belong to the detector, and refuses all others by name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import SafeCheckpointer
from tests.run_fixtures import MINI, REPOSITORY, World

UNTAUGHT = str(REPOSITORY / "configs" / "mini" / "no_distillation.yaml")


@pytest.fixture(scope="module")
def saved(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a detector with two decoder layers and a distillation branch."""
    folder = tmp_path_factory.mktemp("saved")
    SafeCheckpointer(detector(world, seed=1), str(folder)).save("model")
    return folder / "model.pth"


def detector(world: World, config: str = MINI, seed: int = 0, **more: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_model(setup_cfg(config, world.options(MODEL__DETR__DECODER_LAYERS=2, **more)))


def load(model: nn.Module, path: Path) -> None:
    SafeCheckpointer(model).load(str(path))


def part(saved: Path, folder: Path, *prefixes: str) -> Path:
    """A checkpoint with only those weights of the saved one whose names begin so."""
    weights = torch.load(saved)["model"]
    torch.save({"model": {k: v for k, v in weights.items() if k.startswith(prefixes)}}, folder / "part.pth")
    return folder / "part.pth"


def same(model: nn.Module, saved: Path, prefix: str = "") -> bool:
    """Whether all weights of that name are those of the checkpoint."""
    weights = torch.load(saved)["model"]
    return all(torch.equal(v, weights[k]) for k, v in model.state_dict().items() if k.startswith(prefix))


def test_weights_come_back_as_they_were_saved(world: World, saved: Path) -> None:
    model = detector(world)
    assert not same(model, saved)
    load(model, saved)
    assert same(model, saved)


def test_a_write_that_fails_leaves_the_old_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpointer = SafeCheckpointer(detector(world, seed=1), str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def disk_full(data: Any, path: str) -> None:
        Path(path).write_bytes(b"half of")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", disk_full)
    with pytest.raises(OSError, match="No space left"):
        checkpointer.save("model")
    assert (tmp_path / "model.pth").read_bytes() == before
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")


def test_only_the_main_process_writes(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectron2.utils.comm.is_main_process", lambda: False)
    SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)).save("model")
    assert not list(tmp_path.iterdir())


# ---- what belongs to the detector ----


def test_a_backbone_alone_may_be_loaded(world: World, saved: Path, tmp_path: Path) -> None:
    model, before = detector(world), detector(world)
    load(model, part(saved, tmp_path, "backbone."))
    assert same(model, saved, "backbone.")
    assert torch.equal(model.encoder.level_embed, before.encoder.level_embed)


def test_a_backbone_alone_is_not_evaluated(world: World, saved: Path, tmp_path: Path) -> None:
    message = refusal(detector(world).eval(), part(saved, tmp_path, "backbone."))
    assert "are not in it, for example" in message


def test_a_backbone_of_the_model_zoo_may_be_loaded(world: World, saved: Path, tmp_path: Path) -> None:
    """As detectron2://ImageNetPretrained/torchvision/R-50.pkl comes: NumPy arrays, no prefix, a classifier beside."""
    model = detector(world, MODEL__RESNETS__NORM="FrozenBN", SEED=0)
    weights = torch.load(saved)["model"].items()
    weights = {k.removeprefix("backbone."): v.numpy() for k, v in weights if k.startswith("backbone.")}
    weights["stem.fc.weight"] = np.zeros((3, 3), np.float32)
    zoo = {"model": weights, "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(zoo))
    load(model, tmp_path / "R-50.pkl")
    assert same(model, saved, "backbone.stem.conv1.weight")
    assert same(model, saved, "backbone.res4.5.conv3.weight")


def test_weights_trained_with_a_teacher_detect_without_one(world: World, saved: Path) -> None:
    model = detector(world, UNTAUGHT)
    load(model, saved)
    assert same(model, saved)


def test_weights_trained_without_a_teacher_fit_a_detector_that_has_one(world: World, tmp_path: Path) -> None:
    SafeCheckpointer(detector(world, UNTAUGHT, seed=1), str(tmp_path)).save("model")
    model = detector(world)
    load(model, tmp_path / "model.pth")
    assert same(model, tmp_path / "model.pth", "decoder.")


def test_the_teacher_and_the_words_are_not_in_a_checkpoint(world: World, saved: Path) -> None:
    names = torch.load(saved)["model"]
    assert not [name for name in names if "teacher" in name or "clip" in name or "text" in name]
    assert [name for name in names if name.startswith("branch.")] == ["branch.companions.content.weight"]


# ---- what does not ----


def refusal(model: nn.Module, path: Path) -> str:
    with pytest.raises(ValueError) as error:
        load(model, path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_detector_of_another_width_is_refused_by_the_first_key(world: World, saved: Path) -> None:
    message = refusal(detector(world, MODEL__DETR__FFN_CHANNELS=48), saved)
    assert "is of another detector: encoder.layers.0.ffn.linear1.weight has shape (32, 64)" in message
    assert "this config wants (48, 64)" in message


def test_a_detector_with_fewer_layers_in_the_file_is_refused(world: World, saved: Path) -> None:
    message = refusal(detector(world, MODEL__DETR__ENCODER_LAYERS=2), saved)
    assert "is of another detector" in message and "encoder.layers.1." in message


def test_a_detector_with_more_layers_in_the_file_is_refused(world: World, saved: Path) -> None:
    torch.manual_seed(0)
    shallow = build_model(setup_cfg(MINI, world.options()))
    assert "decoder.layers.1." in refusal(shallow, saved)


def test_half_a_detector_is_refused(world: World, saved: Path, tmp_path: Path) -> None:
    message = refusal(detector(world), part(saved, tmp_path, "backbone.", "encoder."))
    assert "are not in it, for example neck." in message


def test_another_model_is_refused(world: World, tmp_path: Path) -> None:
    torch.save({"model": nn.Linear(2, 2).state_dict()}, tmp_path / "linear.pth")
    assert "is of another detector" in refusal(detector(world), tmp_path / "linear.pth")


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04no"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, world: World, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(content)
    assert "is no whole checkpoint" in refusal(detector(world), tmp_path / "model.pth")


def test_a_checkpoint_that_is_not_there_is_missed_by_its_key() -> None:
    with pytest.raises(FileNotFoundError, match=r"There are no weights nowhere.pth \(MODEL.WEIGHTS\)"):
        SafeCheckpointer(nn.Linear(1, 1)).load("nowhere.pth")
