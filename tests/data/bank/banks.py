"""Banks written by hand: a few images with regions whose embeddings say which box they belong to."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from dk_detr.data.bank import (
    BankImage,
    Manifest,
    ShardEntry,
    StoredRegions,
    file_sha256,
    images_fingerprint,
    shard_name,
    write_manifest,
    write_shard,
)

WIDTH = 8  # of the embeddings
HEIGHT_OF_IMAGES, WIDTH_OF_IMAGES = 48, 64
CLIP = {
    "library": "open_clip",
    "architecture": {"name": "ViT-B-32", "sha256": None},
    "weights": {"name": "openai", "sha256": None},
    "width": WIDTH,
}


def image(number: int, **other: Any) -> BankImage:
    """Image `number`, or one that differs from it."""
    size = {"height": HEIGHT_OF_IMAGES, "width": WIDTH_OF_IMAGES}
    return BankImage(**{"image_id": number, "file_name": f"{number}.jpg", **size, **other})


def regions(number: int, count: int) -> StoredRegions:
    """Regions of image `number`, different from those of any other."""
    dice = torch.Generator().manual_seed(number)
    corner = torch.rand(count, 2, generator=dice) * 20
    side = torch.rand(count, 2, generator=dice) * 20 + 4
    scores = torch.randn(count, generator=dice).sort(descending=True).values
    rows = F.normalize(torch.randn(count, WIDTH, generator=dice), dim=-1).half()
    return StoredRegions(torch.cat([corner, corner + side], dim=1), scores, rows)


def settings(images: list[BankImage], **other: Any) -> dict[str, Any]:
    """Of a bank of these images."""
    data_sets = {"names": ["some_train"], "images": len(images), "fingerprint": images_fingerprint(images)}
    return {"clip": CLIP, "data_sets": data_sets, "images_per_shard": 2, **other}


def write_bank(folder: Path, counts: dict[int, int], finished: bool = True) -> Path:
    """A bank of images with so many regions each, two images a shard."""
    images = [image(number) for number in counts]
    made_from, entries = settings(images), []
    for shard, start in enumerate(range(0, len(images), 2)):
        own = images[start : start + 2]
        path = folder / shard_name(shard)
        stored = [regions(one.image_id, counts[one.image_id]) for one in own]
        write_shard(path, made_from, shard, own, stored)
        number = sum(len(of_image) for of_image in stored)
        entries.append(ShardEntry(path.name, len(own), number, os.path.getsize(path), file_sha256(path)))
    if finished:
        write_manifest(folder, Manifest(made_from, tuple(entries), {"prompt": "vild"}))
    return folder
