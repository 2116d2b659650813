"""Files that appear whole or not at all: a run that is killed leaves the old one or the new one, never a part."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a place beside `path` to write to, and moves what was written there when the block ends without an error.

    Missing folders are made. A leftover of a killed run (`<path>.part`) is overwritten by the next.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.part")
    yield unfinished
    unfinished.replace(target)


def write_whole(path: str | os.PathLike[str], contents: str | bytes) -> None:
    """Write text (UTF-8) or bytes."""
    with whole_file(path) as part:
        part.write_bytes(contents.encode() if isinstance(contents, str) else contents)
