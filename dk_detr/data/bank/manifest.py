"""The manifest of a bank: what it was made from and how, and its shards with their checksums. Written last."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dk_detr.data.bank.shard import VERSION
from dk_detr.utils import atomic_write

FILE = "manifest.json"
FORMAT = "dk_detr embedding bank"
REMEDY = "Build it: tools/build_embedding_bank.py."


@dataclass(frozen=True)
class ShardEntry:
    """A shard: file name, number of images and of regions, size in bytes, checksum of the file."""

    file: str
    images: int
    regions: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A whole bank.

    Attributes:
        settings: what its contents follow from: "clip", "crops", "data_sets", "proposals", "images_per_shard".
        shards: in the order of their numbers.
        information: what is worth knowing besides, such as the prompt of the vocabulary.
    """

    settings: dict[str, Any]
    shards: tuple[ShardEntry, ...]
    information: dict[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """The number of images."""
        return sum(shard.images for shard in self.shards)

    @property
    def regions(self) -> int:
        """The number of regions."""
        return sum(shard.regions for shard in self.shards)

    @property
    def bytes(self) -> int:
        """The size of all shards."""
        return sum(shard.bytes for shard in self.shards)


def write_manifest(folder: str | os.PathLike[str], manifest: Manifest, writer: int = 0) -> None:
    """Declare the bank finished; the same bank gives the same bytes.

    Args:
        writer: number of this process: several may be the last at the same time, each then writes the same.
    """
    content = {
        "format": FORMAT, "version": VERSION, **asdict(manifest),
        "images": manifest.images, "regions": manifest.regions, "bytes": manifest.bytes,
    }  # fmt: skip
    own = Path(folder) / f"{FILE}.{writer}"
    atomic_write(own, json.dumps(content, indent=1, sort_keys=True) + "\n")
    own.replace(Path(folder) / FILE)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of a finished bank.

    Raises: FileNotFoundError where there is no bank; ValueError for one that is unfinished or of another version.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        _refuse_without_manifest(Path(folder))
    try:
        content = json.loads(path.read_text())
        kind, version = content["format"], content["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no manifest of an embedding bank ({error!r}). {REMEDY}") from error
    if kind != FORMAT or version != VERSION:
        raise ValueError(
            f"Embedding bank {folder} has the format {kind!r}, version {version}; this code reads {FORMAT!r}, version "
            f"{VERSION}. Build it anew with tools/build_embedding_bank.py, or use the code that wrote it."
        )
    try:
        shards = tuple(ShardEntry(**shard) for shard in content["shards"])
        return Manifest(content["settings"], shards, content["information"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no whole manifest of an embedding bank ({error!r}). {REMEDY}") from error


def _refuse_without_manifest(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no embedding bank {folder} (MODEL.TEACHER.BANK). {REMEDY}")
    done = len(list(folder.glob("shard-*.safetensors")))
    if not done:
        raise FileNotFoundError(f"{folder} (MODEL.TEACHER.BANK) holds no embedding bank. {REMEDY}")
    raise ValueError(
        f"Embedding bank {folder} is unfinished: it has {done} shards, but no {FILE}. Go on with the same "
        "tools/build_embedding_bank.py command that began it; finished shards are kept."
    )
