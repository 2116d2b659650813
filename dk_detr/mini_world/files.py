"""Compact JSON files, and the fingerprint of many files together."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dk_detr.utils import atomic_write


def write_json(path: Path, contents: Any) -> None:
    """As compact JSON with a line end."""
    atomic_write(path, (json.dumps(contents, separators=(",", ":")) + "\n").encode())


def fingerprint(root: Path, names: Iterable[str]) -> str | None:
    """SHA-256 over names and contents of files below `root`; None if one of them is missing."""
    digest = hashlib.sha256()
    for name in names:
        path = root / name
        if not path.is_file():
            return None
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
