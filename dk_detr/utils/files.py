"""Files that appear whole or not at all, so that a run that is killed leaves the old one or the new one, never a part;
and reading them."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LIST_CHUNK = 1 << 24  # characters
LONGEST_GAP = 64  # characters between two objects of a list: a comma, and what makes it readable


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


def read_json_list(path: str, what: str, wanted: str, chunk: int = LIST_CHUNK) -> Iterator[list[Any]]:
    """The elements of a list, some at a time: as Python objects, a file of a gigabyte takes five.

    Portions end where one object of the list follows another. A list that cannot be read so comes whole.

    Args:
        wanted: "results are a list of …", for the error. chunk: characters that are read at once.

    Raises: FileNotFoundError; ValueError where it is cut short, no JSON or no list. That may be said after the first
        portions.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no {what} {path}.")
    given, portions = 0, _portions(path, chunk)
    while True:
        try:
            text = next(portions, None)
            portion = [] if text is None else json.loads(text)
        except (ValueError, RecursionError):
            break
        if text is None:
            return
        yield portion
        given += len(portion)
    whole = read_json(path, what)
    if not isinstance(whole, list):
        raise ValueError(f"{path} holds a {type(whole).__name__}; {wanted}.")  # noqa: TRY004  a user's mistake
    yield whole[given:]


def _portions(path: str, chunk: int) -> Iterator[str]:
    """The text of a list as texts of shorter lists. Raises ValueError for what does not begin as a list."""
    with open(path, encoding="utf-8-sig") as file:
        text = file.read(chunk).lstrip()
        if not text.startswith("["):
            raise ValueError("no list")
        text = text[1:]
        while more := file.read(chunk):
            end, start = _last_boundary(text)
            if end:
                yield f"[{text[:end]}]"
            text = text[start:] + more
        yield f"[{text}"


def _last_boundary(text: str) -> tuple[int, int]:
    """Where the last object but one ends, and where the last begins; 0 and 0 where no object follows another."""
    start = text.rfind("{")
    while start > 0:
        before = text[max(start - LONGEST_GAP, 0) : start]
        objects = before.rstrip().removesuffix(",").rstrip()
        if objects.endswith("}") and "," in before[len(objects) :]:
            return start - len(before) + len(objects), start
        start = text.rfind("{", 0, start)
    return 0, 0
