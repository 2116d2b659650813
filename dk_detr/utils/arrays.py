"""Arrays in pickles of others, read as data: nothing that a pickle names is looked up, let alone called.

What NumPy writes becomes one of the few things below; all else in a pickle is refused by its name.
"""

import argparse
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np

KINDS = "biufcSU"  # of numbers and texts; an array of objects could hold anything


class _Type:
    """In the place of `numpy.dtype`, which believes whatever flags a pickle gives it."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code, ""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def plain(self) -> "np.dtype[Any]":
        """The type itself."""
        found = np.dtype(self.code) if isinstance(self.code, str) else None
        if found is None or found.kind not in KINDS:
            raise pickle.UnpicklingError(f"an array of {self.code} holds no plain numbers")
        return found.newbyteorder(">" if self.order == ">" else "<")


class _Array(np.ndarray):
    """An array that is filled with numbers alone."""

    def __setstate__(self, state: Any) -> None:
        version, shape, kind, in_columns, content = state
        super().__setstate__((version, shape, kind.plain(), in_columns, content))


def _new_array(*_: Any) -> _Array:
    return np.ndarray.__new__(_Array, (0,))


def _scalar(kind: _Type, content: Any) -> Any:
    return np.frombuffer(_bytes(content), kind.plain())[0]


def _from_buffer(content: Any, kind: _Type, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(bytearray(content), kind.plain()).reshape(shape, order="F" if order == "F" else "C")


def _bytes(text: Any, *_: Any) -> bytes:
    """Python 2 has texts for bytes, and Python 3 writes bytes so for it."""
    return text.encode("latin1") if isinstance(text, str) else bytes(text)


def _path(*parts: str) -> str:
    return "/".join(parts)


class _Arguments(argparse.Namespace):
    """Those of a training. A class of our own: a pickle may set attributes of the classes that it is given."""


INERT: dict[str, Any] = {
    "numpy.ndarray": _Array,
    "numpy.dtype": _Type,
    "_codecs.encode": _bytes,
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "argparse.Namespace": _Arguments,
    **{f"pathlib{part}.{kind}Path": _path for part in ("", "._local") for kind in ("Posix", "Windows")},
    **{f"{core}.multiarray._reconstruct": _new_array for core in ("numpy.core", "numpy._core")},
    **{f"{core}.multiarray.scalar": _scalar for core in ("numpy.core", "numpy._core")},
    **{f"{core}.numeric._frombuffer": _from_buffer for core in ("numpy.core", "numpy._core")},
}
"""What a file may name -> what is taken for it."""


class ArraysOnly(pickle.Unpickler):
    """Reads containers, numbers, texts, and what is `INERT`.

    Raises: pickle.UnpicklingError for all else, and what pickle raises for a file that is not whole: see `UNREADABLE`.
    """

    def find_class(self, module: str, name: str) -> Any:
        """See `pickle.Unpickler`."""
        found = f"{'builtins' if module == '__builtin__' else module}.{name}"  # as Python 2 called them
        if found not in INERT:
            raise pickle.UnpicklingError(f"GLOBAL {found} is no array")
        return INERT[found]


UNREADABLE = (
    pickle.UnpicklingError, EOFError, KeyError, AttributeError, TypeError, ValueError, IndexError, OverflowError,
    MemoryError, RecursionError,
)  # fmt: skip
"""What a pickle that is cut short or no pickle at all, or that was made to do harm, ends in."""


def read_pickle(path: str) -> Any:
    """The content of a pickle, texts of Python 2 included. Raises `UNREADABLE`."""
    with open(path, "rb") as file:
        return ArraysOnly(file, encoding="latin1").load()
