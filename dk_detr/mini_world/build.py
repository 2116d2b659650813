"""Write a mini world to disk: resumable, and the same bytes each time.

`manifest.json` holds the arguments from the start, and a fingerprint of the contents once all is there.
"""

import io
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dk_detr.data.prepare import without_rare
from dk_detr.mini_world import lvis_format
from dk_detr.mini_world.files import fingerprint, write_json
from dk_detr.mini_world.shards import CAPTION_SPLIT, IMAGE_SPLITS, cut, make_shards
from dk_detr.utils import atomic_write

RECIPE = 1
LETTERS = {"f": "frequent", "c": "common", "r": "rare"}
DESCRIPTION = "mini world of dk_detr, {split} split, LVIS v1 format; rare categories are the novel ones"


@dataclass(frozen=True)
class MiniWorld:
    """Which world: its seed, and how many scenes each split has. `recipe` counts changes of the pictures."""

    seed: int = 0
    train_images: int = 8000
    val_images: int = 400
    test_images: int = 800
    captions_images: int = 5000
    recipe: int = RECIPE

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            least = 0 if name == "seed" else 1
            if value < least:
                raise ValueError(f"{name} of a mini world must be {least} or more, got {value}.")

    def size(self, split: str) -> int:
        """Number of scenes of "train", "val", "test" or "captions"."""
        return int(getattr(self, f"{split}_images"))

    def files(self) -> list[str]:
        """Everything that the finished world consists of, but the manifest."""
        images = [
            lvis_format.image_record(split, index)["file_name"]
            for split in IMAGE_SPLITS
            for index in range(self.size(split))
        ]
        splits = ("train", "train_norare", "val", "test")
        annotations = [f"annotations/mini_lvis_{split}.json" for split in splits]
        return [*images, *annotations, "captions/crops.npy", "captions/captions.json"]


def make_mini_world(output: str | Path, world: MiniWorld, workers: int = 1) -> None:
    """Write a world, or finish what an interrupted run began; a finished and unchanged one is left alone.

    Args:
        workers: number of processes; the result does not depend on it.

    Raises:
        ValueError: `output` holds another world.
    """
    root, manifest = Path(output), Path(output) / "manifest.json"
    recorded = _read_manifest(manifest, world)
    if recorded.get("fingerprint"):
        if recorded["fingerprint"] == fingerprint(root, world.files()):
            print(f"{root} is complete, nothing to do.")
            return
        print(f"{root}: files were changed or lost since it was finished; making it again.")
    write_json(manifest, {"arguments": asdict(world), "fingerprint": None})
    splits = (*IMAGE_SPLITS, CAPTION_SPLIT)
    make_shards(root, world.seed, [shard for split in splits for shard in cut(split, world.size(split))], workers)
    categories = _merge_annotations(root, world)
    _merge_captions(root, world)
    shutil.rmtree(root / ".parts")
    write_json(manifest, {"arguments": asdict(world), "fingerprint": fingerprint(root, world.files())})
    print(_summary(root, world, categories))


def _read_manifest(path: Path, world: MiniWorld) -> dict[str, Any]:
    """What is on record of a folder, {} where nothing is; ValueError if that is another world."""
    if not path.exists():
        return {}
    recorded: dict[str, Any] = json.loads(path.read_text())
    found, wanted = recorded["arguments"], asdict(world)
    different = [f"{key} {found.get(key)} instead of {wanted[key]}" for key in wanted if found.get(key) != wanted[key]]
    if different:
        raise ValueError(
            f"{path.parent} holds another mini world ({', '.join(different)}). "
            "Choose another --output, ask for the same world, or delete the folder."
        )
    return recorded


def _merge_annotations(root: Path, world: MiniWorld) -> list[lvis_format.Record]:
    """Join the parts of each split into its LVIS files; returns the category records."""
    parts = {split: _read_parts(root, split, world.size(split)) for split in IMAGE_SPLITS}
    categories = lvis_format.category_records(parts["train"][1], world.train_images)
    for split, (images, annotations) in parts.items():
        info = {
            "description": DESCRIPTION.format(split=split),
            "version": str(world.recipe),
            "frequency_thresholds": lvis_format.frequency_thresholds(world.train_images),
        }
        data = lvis_format.data_set(images, annotations, categories, info)
        write_json(root / f"annotations/mini_lvis_{split}.json", data)
        if split == "train":
            data["info"]["description"] += ", without rare categories"
            write_json(root / "annotations/mini_lvis_train_norare.json", without_rare(data))
    return categories


def _read_parts(root: Path, split: str, size: int) -> tuple[list[lvis_format.Record], list[lvis_format.Record]]:
    """Image and annotation records of a split, in order."""
    parts = [json.loads(shard.part(root).read_text()) for shard in cut(split, size)]
    return [r for part in parts for r in part["images"]], [r for part in parts for r in part["annotations"]]


def _merge_captions(root: Path, world: MiniWorld) -> None:
    """Join the caption parts into crops.npy (N, 40, 40, 3) uint8 and captions.json, a list of N texts."""
    crops, captions = [], []
    for shard in cut(CAPTION_SPLIT, world.captions_images):
        with np.load(shard.part(root)) as part:
            crops.append(part["crops"])
            captions += part["captions"].tolist()
    buffer = io.BytesIO()
    np.save(buffer, np.concatenate(crops))
    atomic_write(root / "captions/crops.npy", buffer.getvalue())
    write_json(root / "captions/captions.json", captions)


def _summary(root: Path, world: MiniWorld, categories: list[lvis_format.Record]) -> str:
    instances: Counter[str] = Counter()
    for category in categories:
        instances[category["frequency"]] += category["instance_count"]
    counts = ", ".join(f"{world.size(split)} {split}" for split in IMAGE_SPLITS)
    objects = ", ".join(f"{instances[letter]} {name}" for letter, name in LETTERS.items())
    return f"{root}: images {counts}; training objects {objects} (rare = novel, without boxes in train_norare)"
