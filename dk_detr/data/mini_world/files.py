"""Writing files whole or not at all, so that a killed run leaves nothing half-written behind."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_bytes(path: Path, contents: bytes) -> None:
    """Write under another name, then rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_bytes(contents)
    os.replace(unfinished, path)


def write_json(path: Path, contents: Any) -> None:
    """As compact JSON with a line end."""
    write_bytes(path, (json.dumps(contents, separators=(",", ":")) + "\n").encode())


def fingerprint(root: Path, names: Iterable[str]) -> str | None:
    """SHA-256 over names and contents of files below `root`; None if one of them is missing."""
    digest = hashlib.sha256()
    for name in names:
        path = root / name
        if not path.is_file():
            return None
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()
