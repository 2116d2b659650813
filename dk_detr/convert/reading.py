"""Reading checkpoints, our own and those of others, without running anything that is in them."""

import argparse
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dk_detr.convert.torchscript import is_torchscript, read_torchscript
from dk_detr.utils.arrays import INERT, UNREADABLE, read_pickle

# Where a checkpoint keeps the weights of the model, if not at the top: Detectron2, others, pycls, Caffe2.
INSIDE = ("model", "state_dict", "model_state_dict", "model_state", "blobs")
DEEPEST = 3  # dots in the keys that lead to weights
DIRECTORY_FILES = (
    "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """What a file, or a folder of Hugging Face's, holds.

    Attributes:
        state: the weights by name. beside: names of what else there is. config: its config.json, or the arguments of
            the training that are in it. inside: the keys that lead to the weights, "ema.module"; "" for the top.
    """

    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    inside: str = ""


def read_checkpoint(path: str) -> Checkpoint:
    """Read .pth, .pt, .bin, .pkl, .safetensors, a TorchScript archive, or a folder with model files and config.json.

    Raises: FileNotFoundError; ValueError for what is not whole, or holds no weights, or more than data.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"There is no checkpoint {path}.")
    files = files_of(path)
    config = Path(path) / "config.json"
    if Path(path).is_dir():
        parts = [weights_in(read_content(file), file).state for file in files]
        state = {name: tensor for part in parts for name, tensor in part.items()}
        return Checkpoint(state, config=json.loads(config.read_text()) if config.is_file() else {})
    return weights_in(read_content(files[0]), files[0])


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


def read_content(file: Path) -> Any:
    """All that a file holds, as data. Raises ValueError for what is not whole, or holds more than data."""
    try:
        if file.suffix == ".safetensors":
            return _safetensors(file)
        if file.suffix == ".pkl" and not zipfile.is_zipfile(file):
            return read_pickle(str(file))
        if is_torchscript(file):
            return read_torchscript(file)
        with torch.serialization.safe_globals([(inert, name) for name, inert in INERT.items()]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (*UNREADABLE, RuntimeError, OSError) as error:
        raise ValueError(_what_is_wrong(file, str(error))) from error


def _what_is_wrong(file: Path, reason: str) -> str:
    found = re.search(r"GLOBAL (\S+)", reason)
    if not found:
        first = re.sub(r"\x1b\[\d*m", "", reason).splitlines()
        return f"{file} is no whole checkpoint ({first[0] if first else 'it is empty'})."
    return (
        f"{file} holds a Python object ({found[1]}) besides data; to load it would be to run code that is in the file. "
        "Where the file comes from, save its weights alone: torch.save({'model': state_dict}, …)."
    )


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def weights_in(content: Any, file: Path) -> Checkpoint:
    """The weights in the content of a file: those of the model where several are kept, else the only ones.

    Raises: ValueError for none, and for several of which none is called the model's.
    """
    found = dict(_sets_of_weights(content))
    if not found:
        raise ValueError(f"{file} holds no weights: neither tensors by name, nor such below {', '.join(INSIDE)}.")
    inside = _place_of_the_model(found, file)
    state = {str(name): _as_tensor(value) for name, value in found[inside].items()}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    beside = [str(key) for key in content if key != inside.split(".")[0]] if inside else []
    others = [name for name in state if name not in tensors]
    rest = [place for place in found if place != inside and place.split(".")[0] == inside.split(".")[0]]
    config = content.get("args") if inside else None
    settings = vars(config) if isinstance(config, argparse.Namespace) else {}
    return Checkpoint(_bare(tensors), (*beside, *rest, *others), settings, inside)


def _sets_of_weights(content: Any, place: str = "") -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Tensors by name, with the keys that lead to them; the state of an optimizer is none."""
    if not isinstance(content, Mapping) or place.count(".") > DEEPEST:
        return
    if 2 * sum(isinstance(value, Tensor | np.ndarray) for value in content.values()) > len(content):
        yield place, content
        return
    for key, part in content.items():
        if isinstance(key, str) and not key.startswith("optimizer"):
            yield from _sets_of_weights(part, f"{place}.{key}" if place else key)


def _as_tensor(value: Any) -> Any:
    """An array of numbers as a tensor; all else as it is."""
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biufc":
        return value
    return torch.from_numpy(value.astype(value.dtype.newbyteorder("="), copy=not value.flags.writeable))


def _place_of_the_model(found: Mapping[str, Any], file: Path) -> str:
    for key in INSIDE:
        places = [place for place in found if place.split(".")[0] == key]
        if len(places) == 1:
            return places[0]
    if len(found) == 1:
        return next(iter(found))
    sizes = ", ".join(f'"{place}" ({len(found[place])} tensors)' for place in list(found)[:4])
    raise ValueError(
        f"{file} holds several sets of weights, {sizes}, and none is called the model's ({', '.join(INSIDE)}). Save "
        "the one that you want alone: torch.save({'model': state_dict}, …)."
    )


def _bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what DistributedDataParallel and torch.compile put before all names."""
    for prefix in ("module.", "_orig_mod."):
        if all(name.startswith(prefix) for name in state):
            return _bare({name.removeprefix(prefix): tensor for name, tensor in state.items()})
    return state


def refuse_what_is_not_finite(state: Mapping[str, Any], path: str) -> None:
    """Raises ValueError for weights that are infinite or no numbers: everything that they touch would be, too."""
    tensors = {name: _as_tensor(value) for name, value in state.items()}
    wrong = [name for name, tensor in tensors.items() if isinstance(tensor, Tensor) and not _is_finite(tensor)]
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0]} holds NaN or infinity, the first of {len(wrong)} such among {len(state)} tensors. A "
            "run that diverged leaves them; take an earlier checkpoint, or the file anew from where it comes from."
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point():
        return True
    exact = tensor.float() if tensor.element_size() == 1 else tensor  # there are few operations on eight bits
    return bool(exact.isfinite().all())
