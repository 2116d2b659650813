"""Two-stage ViLD on photos of COCO with LVIS's words: R50-FPN trains two iterations, and boxes and masks are scored."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from torch.nn import functional as F

from dk_detr.commands.train import train_or_evaluate
from dk_detr.data import register
from dk_detr.engine.run_folder import read_results
from dk_detr.language import LVIS_NAMES, WORD_LISTS, save_vocabulary
from dk_detr.structures import Vocabulary
from tests.projects.vild.vild_fixtures import CONFIGS
from tests.run_fixtures import CLIP, REPOSITORY, WIDTH, own_log_handlers, write_json

PHOTOS = Path(os.environ.get("COCO128", REPOSITORY.parent / "shared" / "data" / "coco128"))
ANNOTATIONS = PHOTOS / "annotations" / "lvis_v1_style_train2017.json"
NUM_PHOTOS = 4
pytestmark = pytest.mark.skipif(not ANNOTATIONS.is_file(), reason="no photos of COCO; their folder is COCO128")


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[str]:
    """The name of a data set of the first few photos."""
    content = json.loads(ANNOTATIONS.read_text())
    images = content["images"][:NUM_PHOTOS]
    kept = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in kept]
    file = write_json(tmp_path / "photos.json", {**content, "images": images, "annotations": annotations})
    register("photos", file, str(PHOTOS / "images" / "train2017"))
    yield "photos"
    DatasetCatalog.remove("photos")
    MetadataCatalog.remove("photos")


def options(folder: Path, dataset: str) -> list[str]:
    """As published but for the size of images, the teacher, and how many regions are looked at."""
    rows = F.normalize(torch.randn(len(LVIS_NAMES), WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    novel = torch.tensor([name in set(WORD_LISTS["lvis"].novel) for name in LVIS_NAMES])
    save_vocabulary(Vocabulary(LVIS_NAMES, rows, novel), str(folder / "words.npz"))
    keys = {
        "MODEL.DEVICE": "cpu",
        "MODEL.VOCABULARY.TEST": folder / "words.npz",
        "MODEL.CLIP.ARCHITECTURE": write_json(folder / "clip.json", CLIP),
        "MODEL.CLIP.WEIGHTS": "''",
        "MODEL.TEACHER.NAME": "CLIPCrops",
        "MODEL.KD.NUM_SLOTS": 8,
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 16,
        "MODEL.RPN.POST_NMS_TOPK_TEST": 30,
        "DATASETS.TRAIN": (dataset,),
        "DATASETS.TEST": (dataset,),
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.JITTER_SIZE": 160,
        "INPUT.JITTER_SCALE": [0.8, 1.2],
        "INPUT.MIN_SIZE_TEST": 128,
        "INPUT.MAX_SIZE_TEST": 160,
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.BASE_LR": 0.001,
        "SOLVER.MAX_ITER": 2,
        "TEST.DETECTIONS_PER_IMAGE": 20,
        "OUTPUT_DIR": folder / "run",
    }
    return [str(word) for pair in keys.items() for word in pair]


def test_r50_fpn_trains_on_photos_and_scores_boxes_and_masks(photos: str, tmp_path: Path) -> None:
    config = str(CONFIGS / "ViLD_ensemble_R50.yaml")
    with own_log_handlers():
        train_or_evaluate(config, options(tmp_path, photos))
    results = read_results(str(tmp_path / "run"))
    assert results is not None and results["iteration"] == 2
    for kind in ("bbox", "segm"):
        assert math.isfinite(results["results"][kind]["AP"])
    losses = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[0])
    assert all(math.isfinite(losses[f"loss_{name}"]) for name in ("mask", "cls", "kd_embedding_l1"))
