"""Files that appear whole or not at all, so that a run that is killed leaves the old one or the new one, never a part;
and reading them."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a place beside `path` to write to, and moves what was written there when the block ends without an error.

    Missing folders are made. A leftover of a killed run (`<path>.part`) is overwritten by the next.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.part")
    yield unfinished
    unfinished.replace(target)


def atomic_write(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Write text (UTF-8) or bytes."""
    with atomic_file(path) as part:
        part.write_bytes(contents.encode() if isinstance(contents, str) else contents)


def as_json(value: Any, indent: int | None = None) -> str:
    """Values as JSON, where Python's own would write NaN and Infinity, which are none: they become `null`."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_nan(value: Any) -> Any:
    """What `as_json` was given, of what a JSON file of numbers says: `null` is NaN."""
    if isinstance(value, dict):
        return {key: with_nan(each) for key, each in value.items()}
    return math.nan if value is None else value


def read_json(path: str, what: str) -> Any:
    """What a JSON file holds. Raises FileNotFoundError; ValueError where it is cut short or no JSON."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {what} {path}.")
    try:
        with open(path, encoding="utf-8-sig") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The {what} {path} is no whole JSON file: {error}.") from error
