"""EmbeddingBank: reads the regions of an image in far less than a millisecond. I images, N regions, E width."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dk_detr.data.bank.fingerprints import differences, file_sha256
from dk_detr.data.bank.manifest import ShardEntry, read_manifest
from dk_detr.data.bank.regions import BankImage, StoredRegions
from dk_detr.data.bank.shard import Shard

AGAIN = "Run the tools/build_embedding_bank.py command of this bank again: it makes only what is missing."


class EmbeddingBank:
    """`bank[image_id]` gives the regions of an image.

    It may be copied to other processes, forked or spawned: what is mapped into memory stays behind and is mapped there
    again, and the system keeps one copy for all of them.

    Args:
        folder: what tools/build_embedding_bank.py wrote. Opening it looks at every shard's header; `verify` reads all.

    Raises: FileNotFoundError; ValueError for a bank that is unfinished, of another version, or damaged, naming the
        shard.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder, self.manifest = Path(folder), read_manifest(folder)
        self._shards: dict[int, Shard] = {}
        opened = [self._open(number, entry) for number, entry in enumerate(self.manifest.shards)]
        ids = np.concatenate([shard.image_ids.numpy() for shard in opened])
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._shard = np.repeat(np.arange(len(opened)), [len(shard) for shard in opened])[order]
        self._row = np.concatenate([np.arange(len(shard)) for shard in opened])[order]
        self._shards = dict(enumerate(opened))

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: int) -> bool:
        return self._place(image_id) is not None

    def __getitem__(self, image_id: int) -> StoredRegions:
        """The regions of an image, the best first. Raises KeyError for an image that the bank does not have."""
        place = self._place(image_id)
        if place is None:
            raise KeyError(f"Embedding bank {self.folder} has no image {image_id}.")
        number = int(self._shard[place])
        if number not in self._shards:
            self._shards[number] = Shard(self.folder / self.manifest.shards[number].file)
        return self._shards[number].regions(int(self._row[place]))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": {}}

    def images(self) -> Iterator[BankImage]:
        """All images."""
        for number, entry in enumerate(self.manifest.shards):
            yield from (self._shards.get(number) or Shard(self.folder / entry.file)).images()

    def verify(self, threads: int = 8, progress: bool = False) -> None:
        """Compare the checksum of every shard, reading all of the bank. Raises ValueError naming the first damaged."""
        with (
            ThreadPoolExecutor(threads) as pool,
            tqdm(total=self.manifest.bytes, unit="B", unit_scale=True, desc="checksums", disable=not progress) as bar,
        ):
            sums = pool.map(lambda entry: file_sha256(self.folder / entry.file), self.manifest.shards)
            for entry, found in zip(self.manifest.shards, sums):
                if found != entry.sha256:
                    pool.shutdown(cancel_futures=True)
                    raise ValueError(
                        f"{self.folder / entry.file} is damaged: its checksum is {found[:12]}, the manifest says "
                        f"{entry.sha256[:12]}. Delete this shard. {AGAIN}"
                    )
                bar.update(entry.bytes)

    def _place(self, image_id: int) -> int | None:
        place = int(np.searchsorted(self._ids, image_id))
        return place if place < len(self._ids) and self._ids[place] == image_id else None

    def _open(self, number: int, entry: ShardEntry) -> Shard:
        path = self.folder / entry.file
        if not path.is_file():
            raise FileNotFoundError(f"Embedding bank {self.folder} lacks the shard {entry.file}. {AGAIN}")
        size = path.stat().st_size
        if size != entry.bytes:
            raise ValueError(f"{path} is damaged: it has {size:,} bytes, the manifest says {entry.bytes:,}. {AGAIN}")
        try:
            shard = Shard(path)
        except ValueError as error:
            raise ValueError(f"{error} Delete this shard. {AGAIN}") from error
        other = differences(shard.settings, self.manifest.settings)
        if other or shard.number != number or len(shard) != entry.images:
            what = other[0] if other else f"it is shard {shard.number} with {len(shard)} images there"
            raise ValueError(f"{path} is of another bank than the manifest beside it: {what}. Delete it. {AGAIN}")
        return shard
