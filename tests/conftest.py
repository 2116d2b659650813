"""What tests of several rooms share. Importing dk_detr here, before any test, makes Detectron2 importable."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from dk_detr.data import register_all
from dk_detr.engine import Trainer, setup_cfg
from dk_detr.language import save_vocabulary
from dk_detr.structures import Vocabulary
from tests.run_fixtures import World, make_world
from tests.workers import in_two_workers  # noqa: F401  a fixture

MINI_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "mini" / "Base-mini.yaml"
WORDS = {"apple": "f", "fishing_boat": "c", "cat": "r"}  # name: frequency; the cat is novel
NUM_IMAGES, WIDTH, HEIGHT = 5, 64, 48
SHRUNK = {
    "MODEL.RESNETS.DEPTH": 50,  # Detectron2 fixes the width of ResNet-18
    "MODEL.RESNETS.WIDTH_PER_GROUP": 8,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.DETR.CHANNELS": 32,
    "MODEL.DETR.NUM_QUERIES": 12,
    "MODEL.DETR.FFN_CHANNELS": 32,
    "MODEL.VOCABULARY.PROMPT": "name",
    "MODEL.CLIP.WEIGHTS": "''",
    "INPUT.MIN_SIZE_TEST": 64,
}
CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 1},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A data set to train on, with all that a run needs, for the tests of one file."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def tiny_run(tiny_files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a run (config.yaml, model_final.pth) of an untrained detector; its data set is `mini_lvis_test`."""
    run = tmp_path / "run"
    shutil.copytree(tiny_files / "run", run)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_files))
    register_all()
    yield run
    monkeypatch.undo()
    register_all()


@pytest.fixture
def tiny_images(tiny_files: Path) -> Path:
    """The folder of the images that `tiny_run` is tested on."""
    return tiny_files / "mini_lvis" / "test"


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few coloured rectangles, a vocabulary, a CLIP config, and an untrained detector for them."""
    root = tmp_path_factory.mktemp("tiny")
    _write_data_set(root / "mini_lvis")
    names, novel = tuple(WORDS), torch.tensor([frequency == "r" for frequency in WORDS.values()])
    rows = torch.randn(len(names), CLIP["embed_dim"], generator=torch.Generator().manual_seed(0))
    save_vocabulary(Vocabulary(names, F.normalize(rows, dim=1), novel), str(root / "words.npz"))
    (root / "tiny_clip.json").write_text(json.dumps(CLIP))
    _write_run(root)
    return root


def _write_data_set(folder: Path) -> None:
    random = np.random.default_rng(0)
    (folder / "test").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, annotations = [], []
    for number in range(1, NUM_IMAGES + 1):
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        for category in {1, 2 + number % 2}:
            x, y = int(random.integers(0, 40)), int(random.integers(0, 25))
            pixels[y : y + 20, x : x + 24] = (240 if category == 1 else 20, 40 * category, 60)
            annotations.append(_annotation(len(annotations) + 1, number, category, [x, y, 24, 20]))
        Image.fromarray(pixels).save(folder / "test" / f"{number:06d}.jpg")
        images.append(_image(number, absent=2 + (number + 1) % 2))
    categories = [{"id": i, "name": name, "frequency": f} for i, (name, f) in enumerate(WORDS.items(), start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "mini_lvis_test.json").write_text(json.dumps(content))


def _image(number: int, absent: int) -> dict[str, Any]:
    federated = {"neg_category_ids": [absent], "not_exhaustive_category_ids": []}
    return {"id": number, "file_name": f"test/{number:06d}.jpg", "width": WIDTH, "height": HEIGHT, **federated}


def _annotation(number: int, image: int, category: int, box_xywh: list[int]) -> dict[str, Any]:
    area = box_xywh[2] * box_xywh[3]
    return {"id": number, "image_id": image, "category_id": category, "bbox": box_xywh, "area": area}


def _write_run(root: Path) -> None:
    files = {"MODEL.VOCABULARY.TEST": root / "words.npz", "MODEL.CLIP.ARCHITECTURE": root / "tiny_clip.json"}
    cfg = setup_cfg(str(MINI_CONFIG), [str(word) for pair in {**SHRUNK, **files}.items() for word in pair])
    (root / "run").mkdir()
    (root / "run" / "config.yaml").write_text(cfg.dump())
    torch.manual_seed(0)
    torch.save({"model": Trainer.build_model(cfg).state_dict()}, root / "run" / "model_final.pth")
