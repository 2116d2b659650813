"""Photos of COCO with LVIS's words, where the machine has them: tests that need some skip without."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch.nn import functional as F

from dk_detr.commands.train import train_or_evaluate
from dk_detr.data import register
from dk_detr.language import LVIS_NAMES, WORD_LISTS, save_vocabulary
from dk_detr.structures import Vocabulary
from tests.run_fixtures import CLIP, REPOSITORY, WIDTH, assert_same_training, write_json

PHOTOS = Path(os.environ.get("COCO128", REPOSITORY.parent / "shared" / "data" / "coco128"))
IMAGES = PHOTOS / "images" / "train2017"
ANNOTATIONS = PHOTOS / "annotations" / "lvis_v1_style_train2017.json"
needs_photos = pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="no photos of COCO; their folder is COCO128")


@contextmanager
def registered(folder: Path, number: int = 4) -> Iterator[list[Path]]:
    """The data set "photos" of the first few; yields their files."""
    content = json.loads(ANNOTATIONS.read_text())
    images = content["images"][:number]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    file = write_json(folder / "photos.json", {**content, "images": images, "annotations": annotations})
    register("photos", file, str(IMAGES))
    try:
        yield [IMAGES / image["coco_url"].split("/")[-1] for image in images]
    finally:
        DatasetCatalog.remove("photos")
        MetadataCatalog.remove("photos")


def options(folder: Path, **more: Any) -> list[str]:
    """As published but for the size of images and the teacher; `more` has "__" for dots."""
    rows = F.normalize(torch.randn(len(LVIS_NAMES), WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    novel = torch.tensor([name in set(WORD_LISTS["lvis"].novel) for name in LVIS_NAMES])
    save_vocabulary(Vocabulary(LVIS_NAMES, rows, novel), str(folder / "words.npz"))
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.VOCABULARY.TEST": folder / "words.npz",
        "MODEL.CLIP.ARCHITECTURE": write_json(folder / "clip.json", CLIP),
        "MODEL.CLIP.WEIGHTS": "''",
        "MODEL.KD.NUM_SLOTS": 8,
        "DATASETS.TRAIN": ("photos",),
        "DATASETS.TEST": ("photos",),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.JITTER_SIZE": 160,
        "INPUT.JITTER_SCALE": [0.8, 1.2],
        "INPUT.MIN_SIZE_TEST": 128,
        "INPUT.MAX_SIZE_TEST": 160,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 2,
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "OUTPUT_DIR": folder / "run",
        **{key.replace("__", "."): value for key, value in more.items()},
    }
    return [str(word) for pair in keys.items() for word in pair]


def resume_on_photos(config: str, folder: Path, **more: Any) -> Path:
    """Train a config whole, and again from its first checkpoint on: bit for bit the same. Returns the whole run.

    Inside `registered`; `more` as for `options`.
    """
    whole, resumed = folder / "run", folder / "resumed"
    train_or_evaluate(config, options(folder, **more))
    resumed.mkdir()
    (resumed / "model_0000000.pth").write_bytes((whole / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    train_or_evaluate(config, options(folder, **{**more, "DATASETS__TEST": (), "OUTPUT_DIR": resumed}), resume=True)
    assert_same_training(resumed / "model_final.pth", whole / "model_final.pth")
    return whole
