"""Two-stage ViLD on photos of COCO with LVIS's words: R50-FPN trains two iterations, and boxes and masks are scored."""

import json
import math
from pathlib import Path

from dk_detr.commands.train import train_or_evaluate
from dk_detr.engine.run_folder import read_results
from tests.photo_fixtures import needs_photos, options, registered
from tests.projects.vild.vild_fixtures import CONFIGS
from tests.run_fixtures import own_log_handlers

pytestmark = needs_photos


def test_r50_fpn_trains_on_photos_and_scores_boxes_and_masks(tmp_path: Path) -> None:
    config = str(CONFIGS / "ViLD_ensemble_R50.yaml")
    fewer = {
        "MODEL__TEACHER__NAME": "CLIPCrops", "MODEL__ROI_HEADS__BATCH_SIZE_PER_IMAGE": 16,
        "MODEL__RPN__POST_NMS_TOPK_TEST": 30, "SOLVER__BASE_LR": 0.001,
    }  # fmt: skip
    with own_log_handlers(), registered(tmp_path):
        train_or_evaluate(config, options(tmp_path, **fewer))
    results = read_results(str(tmp_path / "run"))
    assert results is not None and results["iteration"] == 2
    for kind in ("bbox", "segm"):
        assert math.isfinite(results["results"][kind]["AP"])
    losses = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[0])
    assert all(math.isfinite(losses[f"loss_{name}"]) for name in ("mask", "cls", "kd_embedding_l1"))
