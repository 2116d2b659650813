"""Reading checkpoints: all the ways that weights come in, and nothing that runs code or is not whole."""

import argparse
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dk_detr.convert.reading import fingerprint, read_checkpoint
from tests.model_fixtures import random

STATE = {"a.weight": random(2, 3), "b.bias": random(4, seed=1)}


def same(state: dict[str, Tensor]) -> bool:
    return state.keys() == STATE.keys() and all(torch.equal(tensor, STATE[name]) for name, tensor in state.items())


def saved(content: Any, path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_weights_are_found_below_the_usual_keys(key: str, tmp_path: Path) -> None:
    found = read_checkpoint(saved({key: STATE, "epoch": 3, "optimizer": {"step": 1}}, tmp_path / "a.pth"))
    assert same(found.state) and found.beside == ("epoch", "optimizer")


def test_weights_are_found_at_the_top(tmp_path: Path) -> None:
    found = read_checkpoint(saved(STATE, tmp_path / "a.pth"))
    assert same(found.state) and not found.beside


def test_the_prefix_of_a_distributed_training_is_taken_off(tmp_path: Path) -> None:
    wrapped = {f"module.{name}": tensor for name, tensor in STATE.items()}
    assert same(read_checkpoint(saved(wrapped, tmp_path / "a.pth")).state)


def test_the_arguments_of_the_training_are_read_as_data(tmp_path: Path) -> None:
    args = argparse.Namespace(nheads=8, dataset_file="coco")
    found = read_checkpoint(saved({"model": STATE, "args": args}, tmp_path / "a.pth"))
    assert found.config == {"nheads": 8, "dataset_file": "coco"} and found.beside == ("args",)


def test_what_is_no_tensor_among_the_weights_is_named(tmp_path: Path) -> None:
    found = read_checkpoint(saved({"model": {**STATE, "version": 2}}, tmp_path / "a.pth"))
    assert same(found.state) and found.beside == ("version",)


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "a.safetensors")
    assert same(read_checkpoint(str(tmp_path / "a.safetensors")).state)


class Scripted(nn.Module):
    """Something of all that an archive may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.small = nn.Linear(3, 2).half()
        self.transposed = nn.Parameter(random(3, 5).T)
        self.register_buffer("resolution", torch.tensor(224))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.sizes, self.name, self.ratio, self.nothing = [1, 2], "scripted", 0.5, None

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) * float(self.sizes[0]) * self.ratio


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("traced", [False, True])
def test_the_tensors_of_a_torchscript_archive_are_read(traced: bool, tmp_path: Path) -> None:
    model = Scripted().eval()
    script = torch.jit.trace(model, random(1, 3, 2, 2)) if traced else torch.jit.script(model)
    script.save(tmp_path / "a.pt")
    state, wanted = read_checkpoint(str(tmp_path / "a.pt")).state, model.state_dict()
    assert state.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(state[name], tensor) and state[name].dtype == tensor.dtype


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_code_in_the_record_of_a_torchscript_archive_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive, zipfile.ZipFile(tmp_path / "b.pt", "w") as trap:
        for name in archive.namelist():
            sprung = pickle.dumps(Trap(str(tmp_path / "sprung")))
            trap.writestr(name, sprung if name.endswith("/data.pkl") else archive.read(name))
    with pytest.raises(ValueError, match=r"b.pt holds a Python object \(.*mkdir\) besides data"):
        read_checkpoint(str(tmp_path / "b.pt"))
    assert not (tmp_path / "sprung").exists()


# ---- folders of Hugging Face's ----


def folder(path: Path, **files: dict[str, Tensor]) -> str:
    """Files by their names without a suffix."""
    for name, tensors in files.items():
        save_file(tensors, path / f"{name}.safetensors")
    (path / "config.json").write_text('{"encoder_attention_heads": 4}')
    return str(path)


def index(path: Path, shards: dict[str, str]) -> None:
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def test_a_folder_is_read_with_its_config(tmp_path: Path) -> None:
    found = read_checkpoint(folder(tmp_path, model=STATE))
    assert same(found.state) and found.config == {"encoder_attention_heads": 4}


def test_a_folder_with_a_pickled_file_is_read(tmp_path: Path) -> None:
    saved(STATE, tmp_path / "pytorch_model.bin")
    assert same(read_checkpoint(str(tmp_path)).state)


def test_all_shards_are_read(tmp_path: Path) -> None:
    first, second = ({name: tensor} for name, tensor in STATE.items())
    folder(tmp_path, one=first, two=second)
    index(tmp_path, {"a.weight": "one.safetensors", "b.bias": "two.safetensors"})
    assert same(read_checkpoint(str(tmp_path)).state)


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    index(tmp_path, {"a.weight": "one.safetensors"})
    with pytest.raises(FileNotFoundError, match=r"names the shard one.safetensors, which is not there"):
        read_checkpoint(str(tmp_path))


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("[1")
    with pytest.raises(ValueError, match="is no index of shards"):
        read_checkpoint(str(tmp_path))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        read_checkpoint(str(tmp_path))


# ---- what is refused ----


class Trap:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    path = saved({"model": STATE, "hook": Trap(str(tmp_path / "sprung"))}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth holds a Python object \(.*mkdir\) besides data"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["pth", "bin", "pt", "safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04no"])
def test_a_file_that_is_no_checkpoint_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a.{suffix} is no whole checkpoint"):
        read_checkpoint(str(tmp_path / f"a.{suffix}"))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_truncated_file_is_refused(name: str, tmp_path: Path) -> None:
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else saved(STATE, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(ValueError, match="is no whole checkpoint"):
        read_checkpoint(str(tmp_path / name))


@pytest.mark.parametrize("content", [{"epoch": 3}, [1, 2], {"model": {"epoch": 3}}, {}])
def test_a_file_without_weights_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.pth holds no weights"):
        read_checkpoint(saved(content, tmp_path / "a.pth"))


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="There is no checkpoint nowhere.pth"):
        read_checkpoint("nowhere.pth")


def test_a_fingerprint_is_of_the_contents(tmp_path: Path) -> None:
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).write_bytes(content)
    first, second, other = (fingerprint(str(tmp_path / name)) for name in "abc")
    assert first == second != other
