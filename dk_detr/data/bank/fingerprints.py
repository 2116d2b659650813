"""What makes a bank this bank: files by their contents, data sets by their images, settings by their differences."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from dk_detr.data.bank.regions import BankImage

Identity = dict[str, str | None]
_BLOCK = 1 << 22


def identity_of(source: str) -> Identity:
    """A file by its contents, whatever it is called; anything else (a tag, the name of an architecture) by its name."""
    if not os.path.isfile(source):
        return {"name": source, "sha256": None}
    return {"name": os.path.basename(source), "sha256": file_sha256(source)}


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Of the contents, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def images_fingerprint(images: Iterable[BankImage]) -> str:
    """Of ids, file names and sizes, in any order."""
    rows = sorted((image.image_id, image.file_name, image.height, image.width) for image in images)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Lines such as "proposals.regions is 100 there, 300 here"; none where the settings say the same."""
    return [f"{key} is {_shown(a)} there, {_shown(b)} here" for key, a, b in unequal(there, here)]


def unequal(there: Any, here: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key and both values wherever nested settings differ; None where one side lacks the key."""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        if there != here:
            yield prefix, there, here
    elif _is_identity(there) and _is_identity(here):
        if (there["sha256"] or there["name"]) != (here["sha256"] or here["name"]):
            yield prefix, there, here
    else:
        for key in sorted(there.keys() | here.keys()):
            yield from unequal(there.get(key), here.get(key), f"{prefix}.{key}".lstrip("."))


def _is_identity(value: dict[str, Any]) -> bool:
    return value.keys() == {"name", "sha256"}


def _shown(value: Any) -> str:
    if isinstance(value, dict) and _is_identity(value):
        return f"{value['name']} (sha256 {value['sha256'][:12]})" if value["sha256"] else f'"{value["name"]}"'
    return "absent" if value is None else json.dumps(value)
