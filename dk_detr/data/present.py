"""Which image files of a data set are there: all of them are looked for before a run, not met by it hours later."""

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

CHECK_IMAGES = "Put it there, or take it out of the annotations; `tools/prepare_dataset.py check` lists all such."


def require_images(records: Sequence[dict[str, Any]], name: str, remedy: str) -> None:
    """Every image of Detectron2's records is a file; folders are listed once each, so that 100 000 take no second.

    Args:
        name: how the error calls the data set. remedy: a sentence that says what to do.

    Raises: FileNotFoundError with how many are missing, and the first.
    """
    listing = cache(_listing)
    missing = [path for path in (record["file_name"] for record in records) if not _is_in(path, listing)]
    if missing:
        more = f" {len(missing) - 1} more of {len(records)} are not, either." if missing[1:] else ""
        raise FileNotFoundError(f"Image {missing[0]} of {name} is not there.{more} {remedy}")


def _is_in(path: str, listing: Any) -> bool:
    folder, base = os.path.split(path)
    return "://" in path or base in listing(folder)  # what lies elsewhere cannot be listed


def _listing(folder: str) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder or "."))
    except OSError:
        return frozenset()
