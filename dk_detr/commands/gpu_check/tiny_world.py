"""A tiny world to run whole trainings in: data sets on disk, a CLIP, a vocabulary, and keys that shrink any config to
seconds. The tests run in it, too.

On each image lie a red box and a green one, on every other image a blue one too. Blue is novel: in LVIS's words rare.
"""

import json
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from torch.nn import functional as F

from dk_detr.commands.train import train_or_evaluate
from dk_detr.data import datasets_below
from dk_detr.language import save_vocabulary
from dk_detr.structures import Vocabulary

ROOT = Path(__file__).resolve().parents[3]
MINI = str(ROOT / "configs" / "mini" / "dk_detr.yaml")

SIDE, NUM_IMAGES = 64, 8
NAMES = ("red_box", "green_box", "blue_box")
FREQUENCIES = ("f", "c", "r")
COLOURS = ((230, 20, 20), (20, 200, 20), (20, 20, 230))
WIDTH = 16  # of the embeddings
CLIP = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
CALIBRATION = {  # by a teacher that nobody asked who it is
    "format": "dk_detr calibration",
    "version": 1,
    "teacher": {"probe": "", "width": WIDTH, "crop_scales": [1.0, 1.5]},
    "classifier": {"temperature": 0.1, "offset": 0.2},
    "semantic": {"temperature": 0.1, "offset": 0.6},
}
COCO_IDS = {c["name"]: c["id"] for c in COCO_CATEGORIES if c["isthing"]}  # of all 80, ascending
# As deep as the real ones where that costs nothing, as thin as can be.
SHRUNK = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "''",
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.TIMM.NAME": "test_convnext",
    "MODEL.TIMM.PRETRAINED": "''",
    "MODEL.DETR.PADDED_SIZE": 0,
    "MODEL.DETR.CHANNELS": 64,  # group norm needs two of a group where a map is a single pixel
    "MODEL.DETR.NUM_QUERIES": 10,
    "MODEL.DETR.NUM_HEADS": 2,
    "MODEL.DETR.ENCODER_LAYERS": 1,
    "MODEL.DETR.DECODER_LAYERS": 1,
    "MODEL.DETR.FFN_CHANNELS": 32,
    "MODEL.CLIP.WEIGHTS": "''",
    "INPUT.MIN_SIZE_TRAIN": (SIDE,),
    "INPUT.MIN_SIZE_TEST": SIDE,
    "INPUT.MAX_SIZE_TEST": SIDE,
    "INPUT.JITTER_SIZE": SIDE,
    "INPUT.JITTER_SCALE": [0.5, 2.0],
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.IMS_PER_BATCH": 2,
}


@dataclass(frozen=True)
class World:
    """Where the files are: data sets as DETECTRON2_DATASETS wants them, CLIP, words and a calibration."""

    root: Path

    def options(self, **more: Any) -> list[str]:
        """KEY VALUE pairs that shrink a config; `more` has "__" for the dots of a key."""
        files = {"MODEL.CLIP.ARCHITECTURE": self.root / "clip.json", "MODEL.VOCABULARY.TEST": self.root / "words.npz"}
        keys = {**SHRUNK, **files, **{key.replace("__", "."): value for key, value in more.items()}}
        return [str(word) for pair in keys.items() for word in pair]

    def train(
        self, output: Path, config: str = MINI, resume: bool = False, eval_only: bool = False, **more: Any
    ) -> Path:
        """Train or evaluate in this process, as tools/train_net.py would; returns the folder of the run."""
        with self.in_use(), own_log_handlers():
            train_or_evaluate(config, self.options(OUTPUT_DIR=output, **more), resume, eval_only)
        return output

    @contextmanager
    def in_use(self) -> Iterator["World"]:
        """The registered data sets are those of this world, as long as the block lasts."""
        with datasets_below(str(self.root)):
            yield self


@contextmanager
def own_log_handlers() -> Iterator[None]:
    """Detectron2 lets every run log to one more file and terminal, and all that it says, for good; here that ends with
    the run."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "dk_detr")]
    before = [(list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


def make_world(root: Path) -> World:
    """Write a world: the mini world's data sets, LVIS's (the same images), CLIP and words."""
    content = draw_images(root / "mini_lvis" / "train")
    for split in ("train", "train_norare", "val", "test"):
        write_json(root / f"mini_lvis/annotations/mini_lvis_{split}.json", content)
    (root / "coco").mkdir()
    (root / "coco" / "train").symlink_to(root / "mini_lvis" / "train")
    for split in ("train_norare", "val"):
        write_json(root / f"lvis/lvis_v1_{split}.json", with_urls(content))
    write_json(root / "clip.json", CLIP)
    save_vocabulary(words(), str(root / "words.npz"))
    write_json(root / "calibration.json", CALIBRATION)
    return World(root)


def words(names: tuple[str, ...] = NAMES, width: int = WIDTH, novel: tuple[str, ...] = NAMES[2:]) -> Vocabulary:
    """Names with any embeddings."""
    rows = torch.randn(len(names), width, generator=torch.Generator().manual_seed(0))
    return Vocabulary(names, F.normalize(rows, dim=1), torch.tensor([name in novel for name in names]))


def draw_images(folder: Path) -> dict[str, Any]:
    """Write the images into the folder; returns their annotations in LVIS's format, file names from its parent on."""
    folder.mkdir(parents=True)
    content = annotations_of([])
    dice = random.Random(0)
    for number in range(1, NUM_IMAGES + 1):
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        for label in range(2 + number % 2):
            x, y, w, h = 21 * label + dice.randint(0, 4), dice.randint(0, 30), dice.randint(8, 16), dice.randint(12, 30)
            pixels[y : y + h, x : x + w] = COLOURS[label]
            add_box(content, number, label + 1, [x, y, w, h])
        Image.fromarray(pixels).save(folder / f"{number:06d}.png")
        content["images"].append(image_entry(number, f"{folder.name}/{number:06d}.png"))
    return content


def annotations_of(images: list[dict[str, Any]]) -> dict[str, Any]:
    """A file in LVIS v1 format with the three categories and no box."""
    named = enumerate(zip(NAMES, FREQUENCIES), start=1)
    categories = [{"id": i, "name": name, "frequency": frequency} for i, (name, frequency) in named]
    return {"images": images, "annotations": [], "categories": categories}


def image_entry(number: int, file_name: str) -> dict[str, Any]:
    """An image of SIDE pixels in which every category was looked for."""
    federated = {"neg_category_ids": [1, 2, 3], "not_exhaustive_category_ids": []}
    return {"id": number, "file_name": file_name, "width": SIDE, "height": SIDE, **federated}


def add_box(content: dict[str, Any], image: int, category: int, box_xywh: list[float]) -> None:
    """Append an annotation."""
    number = len(content["annotations"]) + 1
    box = {"bbox": box_xywh, "area": box_xywh[2] * box_xywh[3]}
    content["annotations"].append({"id": number, "image_id": image, "category_id": category, **box})


def with_urls(content: dict[str, Any]) -> dict[str, Any]:
    """The same file as LVIS writes it: without file names, with the addresses of COCO's images."""
    images = [
        {**{k: v for k, v in image.items() if k != "file_name"}, "coco_url": f"http://images/{image['file_name']}"}
        for image in content["images"]
    ]
    return {**content, "images": images}


def write_json(path: Path, content: Any) -> str:
    """Write, with the folders above it; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def world_with_masks(root: Path) -> World:
    """The tests' world; the outline of an object is its box."""
    world = make_world(root)
    for file in root.rglob("annotations/*.json"):
        give_outlines(file)
    for file in (root / "lvis").glob("*.json"):
        give_outlines(file)
    return world


def give_outlines(file: Path) -> None:
    """Add a "segmentation" to each annotation of a file."""
    content = json.loads(file.read_text())
    for annotation in content["annotations"]:
        annotation["segmentation"] = [outline(annotation["bbox"])]
    file.write_text(json.dumps(content))


def outline(box_xywh: list[float]) -> list[float]:
    """The polygon around a box."""
    x, y, w, h = box_xywh
    return [x, y, x + w, y, x + w, y + h, x, y + h]
