"""Which shards a bank has, which of them are there, and how much it will take."""

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dk_detr.data.bank import Shard, differences, shard_name

HEADER = 2048  # bytes of a shard for its settings, about
IMAGE = 64  # bytes of an image for its name, size and offset, about


@dataclass(frozen=True)
class Plan:
    """A bank to be.

    Attributes:
        folder: where. settings: what it is made from. records: of its images, by ascending id, each once.
    """

    folder: Path
    settings: dict[str, Any]
    records: Sequence[Mapping[str, Any]]

    @property
    def num_shards(self) -> int:
        """All of them."""
        return math.ceil(len(self.records) / self.settings["images_per_shard"])

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return self.folder / shard_name(shard)

    def records_of(self, shard: int) -> Sequence[Mapping[str, Any]]:
        """The records of a shard."""
        size = self.settings["images_per_shard"]
        return self.records[shard * size : (shard + 1) * size]

    def is_done(self, shard: int) -> bool:
        """Whether a shard is there and whole. Raises ValueError for one of another bank."""
        try:
            there = Shard(self.path(shard))
        except (FileNotFoundError, ValueError):
            return False  # a damaged one is made anew
        other = differences(there.settings, self.settings)
        if other:
            raise ValueError(
                f"{self.path(shard)} is of another bank: {'; '.join(other)}. Name another folder (--output), or delete "
                "this one."
            )
        return there.number == shard

    def most_bytes(self, shards: Sequence[int]) -> int:
        """What these shards take if every image has as many regions as it may."""
        images = sum(len(self.records_of(shard)) for shard in shards)
        region = 4 * 4 + 4 + 2 * self.settings["clip"]["width"]
        return images * (IMAGE + region * self.settings["proposals"]["regions"]) + HEADER * len(shards)

    def describe(self) -> str:
        """One line for the terminal."""
        regions = self.settings["proposals"]["regions"]
        size = human_bytes(self.most_bytes(range(self.num_shards)))
        return (
            f"{self.folder}: {len(self.records):,} images, at most {regions} regions each, in {self.num_shards:,} "
            f"shards: at most {size}"
        )


def refuse_without_space(plan: Plan, shards: Sequence[int]) -> None:
    """Raises ValueError where the disk has no room for these shards."""
    there = next(folder for folder in [plan.folder, *plan.folder.absolute().parents] if folder.is_dir())
    needed, free = plan.most_bytes(shards), shutil.disk_usage(there).free
    if needed > free:
        raise ValueError(
            f"{plan.folder} needs {human_bytes(needed)} more, but the disk has {human_bytes(free)} free. Name another "
            "folder (--output), or store fewer --regions."
        )


def human_bytes(number: float) -> str:
    """Such as "3.1 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} GiB"
