"""Reading checkpoints of others without running anything that is in them."""

import argparse
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dk_detr.engine.convert.torchscript import is_torchscript, read_torchscript

INSIDE = ("model", "state_dict", "model_state_dict")  # where a checkpoint keeps its weights, if not at the top
DIRECTORY_FILES = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a file, or a folder of Hugging Face's, holds.

    Attributes:
        state: the weights by name. beside: names of what else there is. config: its config.json, or the arguments of
            the training that are in it.
    """

    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str) -> Checkpoint:
    """Read .pth, .pt, .bin, .safetensors, a TorchScript archive, or a folder with model files and config.json.

    Raises: FileNotFoundError; ValueError for what is not whole, or holds no weights, or more than data.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    files = files_of(path)
    config = Path(path) / "config.json"
    if Path(path).is_dir():
        state = {name: tensor for file in files for name, tensor in _unpack(_load(file), file).state.items()}
        return Checkpoint(state, config=json.loads(config.read_text()) if config.is_file() else {})
    return _unpack(_load(files[0]), files[0])


def files_of(path: str) -> list[Path]:
    """The files with the weights: the file itself, or of a folder those that Hugging Face's libraries read."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    for name in DIRECTORY_FILES:
        if (folder / name).is_file():
            return sorted(_shards(folder / name)) if name.endswith(".json") else [folder / name]
    raise FileNotFoundError(f"The folder {path} holds none of {', '.join(DIRECTORY_FILES)}.")


def fingerprint(path: str) -> str:
    """Of the contents of the files; the same for the same weights."""
    digest = hashlib.sha256()
    for file in files_of(path):
        with open(file, "rb") as stream:
            while block := stream.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()


def _shards(index: Path) -> Iterator[Path]:
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{index} is no index of shards.") from error
    for name in names:
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names the shard {name}, which is not there.")
        yield index.parent / name


def _load(file: Path) -> Any:
    try:
        if file.suffix == ".safetensors":
            return _safetensors(file)
        if is_torchscript(file):
            return read_torchscript(file)
        # The official Deformable DETR keeps the arguments of its training, a plain record, beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise ValueError(_what_is_wrong(file, str(error))) from error


def _what_is_wrong(file: Path, reason: str) -> str:
    if "GLOBAL" not in reason:
        return f"{file} is no whole checkpoint ({reason.splitlines()[0] if reason else 'it is empty'})."
    found = reason.split("GLOBAL")[1].split()[0]
    return (
        f"{file} holds a Python object ({found}) besides data; to load it would be to run code that is in the file. "
        "Where the file comes from, save its weights alone: torch.save({'model': state_dict}, …)."
    )


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _unpack(content: Any, file: Path) -> Checkpoint:
    top: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
    inside = next((key for key in INSIDE if isinstance(top.get(key), Mapping)), None)
    state = top[inside] if inside else top
    if not any(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"{file} holds no weights: neither tensors by name, nor such below {', '.join(INSIDE)}.")
    others = [str(name) for name, tensor in state.items() if not isinstance(tensor, Tensor)]
    beside = [str(key) for key in top if key != inside] if inside else []
    config = top.get("args") if inside else None
    state = {str(name): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    return Checkpoint(_bare(state), (*beside, *others), vars(config) if isinstance(config, argparse.Namespace) else {})


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the "module." that DistributedDataParallel puts before all names."""
    if not all(name.startswith("module.") for name in state):
        return state
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}
