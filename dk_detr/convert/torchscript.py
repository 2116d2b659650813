"""The tensors of a TorchScript archive (OpenAI's CLIP), read without PyTorch's loader.

`torch.jit.load` would run what code the archive has for its modules, and TorchScript can read and write files. Here its
record of modules is taken as data: a module is a dict of what it holds, its code stays closed.
"""

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(file: Path) -> bool:
    """Whether it is an archive with code in it."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") or "/code/" in name for name in archive.namelist())


def read_torchscript(file: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name. Raises ValueError, pickle.UnpicklingError or KeyError for what is not whole."""
    with zipfile.ZipFile(file) as archive:
        try:
            record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(record) as stream:
                root = _Reader(stream, archive, record.removesuffix("data.pkl")).load()
        except (StopIteration, zipfile.BadZipFile, AttributeError, TypeError, IndexError) as error:
            raise ValueError(f"no TorchScript archive that can be read: {error!r}") from error
    return dict(_tensors(root, ""))


class _Module:
    """Whatever class of the archive; its state is not interpreted."""

    def __setstate__(self, state: Any) -> None:
        self.holds = state


def _tensors(value: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, part in value.holds.items() if isinstance(getattr(value, "holds", None), dict) else ():
        if isinstance(part, Tensor):
            yield prefix + name, part
        else:
            yield from _tensors(part, f"{prefix}{name}.")


class _Reader(pickle.Unpickler):
    """Knows modules, tensors, and lists; calls nothing else."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(stream)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # lists, and values with the name of their type
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name} is not known")

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, number = pid
        if not number:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(f"{self.folder}data/{key}")), dtype=dtype)


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
