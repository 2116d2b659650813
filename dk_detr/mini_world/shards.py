"""Making scenes in parallel, fifty to a shard.

Every scene is a function of (seed, split, index), so neither the number of workers nor an interruption shows in the
result. A shard is done when its part file below `.parts/` exists; that is written after the shard's images.
"""

import functools
import io
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from dk_detr.mini_world import captions, lvis_format, scene
from dk_detr.mini_world.concepts import SAMPLING_WEIGHTS, all_concepts, categories
from dk_detr.mini_world.files import write_json
from dk_detr.utils import atomic_write

SHARD_SIZE = 50
JPEG_QUALITY = 94
IMAGE_SPLITS = ("train", "val", "test")
CAPTION_SPLIT = "captions"
_SPLIT_CODES = {"train": 0, "val": 1, "test": 2, CAPTION_SPLIT: 3}


@dataclass(frozen=True)
class Shard:
    """Consecutive scenes of a split: indices in [start, stop)."""

    split: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, root: Path) -> Path:
        """Where its record lies until everything is merged."""
        suffix = "npz" if self.split == CAPTION_SPLIT else "json"
        return root / ".parts" / f"{self.split}_{self.start:06d}.{suffix}"


def cut(split: str, size: int) -> list[Shard]:
    """The shards of a split with `size` scenes, in order."""
    return [Shard(split, start, min(start + SHARD_SIZE, size)) for start in range(0, size, SHARD_SIZE)]


def make_shards(root: Path, seed: int, shards: Sequence[Shard], workers: int) -> None:
    """Make those shards that are not done yet, with `workers` processes, showing progress in scenes."""
    missing = [shard for shard in shards if not shard.part(root).exists()]
    total = sum(map(len, shards))
    with tqdm(desc="mini world", unit="scene", total=total, initial=total - sum(map(len, missing))) as progress:
        for count in _each(functools.partial(make_shard, root, seed), missing, workers):
            progress.update(count)


def _each(make: functools.partial[int], shards: Sequence[Shard], workers: int) -> Iterator[int]:
    if workers == 1 or len(shards) < 2:
        yield from map(make, shards)
        return
    with multiprocessing.get_context("fork").Pool(min(workers, len(shards)), _end_with_parent) as pool:
        yield from pool.imap_unordered(make, shards)


def _end_with_parent() -> None:
    """Let a worker end when the main process is killed; it would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent process"

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def make_shard(root: Path, seed: int, shard: Shard) -> int:
    """Make the scenes of a shard and, once they are on disk, its part file; returns how many scenes."""
    if shard.split == CAPTION_SPLIT:
        _make_caption_shard(root, seed, shard)
    else:
        _make_image_shard(root, seed, shard)
    return len(shard)


def lay_out_scene(seed: int, split: str, index: int) -> tuple[np.random.Generator, list[scene.SceneObject]]:
    """What lies where in a scene of a split, and the generator that goes on to paint it."""
    rng = np.random.default_rng([seed, _SPLIT_CODES[split], index])
    concepts = all_concepts() if split == CAPTION_SPLIT else tuple(category.concept for category in categories())
    weights = np.ones(len(concepts))
    if split == "train":
        weights = np.array([SAMPLING_WEIGHTS[category.frequency] for category in categories()])
    return rng, scene.lay_out(rng, concepts, weights / weights.sum())


def _make_image_shard(root: Path, seed: int, shard: Shard) -> None:
    ids = {category.concept: category.id for category in categories()}
    images, annotations = [], []
    for index in range(shard.start, shard.stop):
        rng, objects = lay_out_scene(seed, shard.split, index)
        image = lvis_format.image_record(shard.split, index)
        atomic_write(root / image["file_name"], _jpeg(scene.paint(rng, objects)))
        images.append(image)
        annotations += [lvis_format.annotation_record(item, image["id"], ids[item.concept]) for item in objects]
    write_json(shard.part(root), {"images": images, "annotations": annotations})


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _make_caption_shard(root: Path, seed: int, shard: Shard) -> None:
    crops, texts = [], []
    for index in range(shard.start, shard.stop):
        rng, objects = lay_out_scene(seed, CAPTION_SPLIT, index)
        pictures, names = captions.captioned_crops(rng, objects, scene.paint(rng, objects))
        crops.append(pictures)
        texts += names
    buffer = io.BytesIO()
    np.savez(buffer, crops=np.concatenate(crops), captions=np.array(texts))
    atomic_write(shard.part(root), buffer.getvalue())
