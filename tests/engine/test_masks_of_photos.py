"""DK-DETR with masks on photos of COCO with LVIS's words: it trains, goes on, is scored, and draws what it found."""

import argparse
import json
import math
from pathlib import Path

from PIL import Image
from pycocotools import mask as mask_util

from dk_detr.commands import demo
from dk_detr.commands.train import train_or_evaluate
from dk_detr.engine.run_folder import read_results
from tests.photo_fixtures import needs_photos, options, registered
from tests.run_fixtures import REPOSITORY, own_log_handlers

CONFIG = str(REPOSITORY / "configs" / "dk_detr_mask_R50.yaml")
pytestmark = needs_photos


def test_dk_detr_r50_trains_resumes_scores_and_draws_masks(tmp_path: Path) -> None:
    sizes = {"PADDED_SIZE": 160, "NUM_QUERIES": 50, "ENCODER_LAYERS": 1}
    smaller = {"MODEL__WEIGHTS": "''", **{f"MODEL__DETR__{key}": value for key, value in sizes.items()}}
    with own_log_handlers(), registered(tmp_path, 2) as files:
        train_or_evaluate(CONFIG, options(tmp_path, **smaller, DATASETS__TEST="()"))
        settings = options(tmp_path, **smaller, SOLVER__MAX_ITER=3)
        train_or_evaluate(CONFIG, settings, resume=True)
    results = read_results(str(tmp_path / "run"))
    assert results is not None and results["iteration"] == 3
    for kind in ("bbox", "segm"):
        assert {"AP", "APr", "APc", "APf"} <= results["results"][kind].keys()
        assert math.isfinite(results["results"][kind]["AP"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert all(math.isfinite(lines[0][f"loss_mask_{name}"]) for name in ("dice", "bce"))
    weights = ["MODEL.WEIGHTS", str(tmp_path / "run" / "model_final.pth")]
    asked = {"input": [str(files[0])], "output": str(tmp_path / "drawn"), "vocabulary": None, "custom_vocabulary": None}
    asked |= {"thresholds": None, "slice": None, "start": None, "end": None, "every": 1, "timeout": 1.0}
    with own_log_handlers():
        demo.main(
            argparse.Namespace(config_file=CONFIG, confidence_threshold=0.0, opts=[*settings, *weights], **asked)
        )
    (record,) = json.loads((tmp_path / "drawn" / "detections.json").read_text())
    assert record["detections"] and Image.open(tmp_path / "drawn" / record["picture"]).size[0] >= record["width"]
    for detection in record["detections"]:
        assert mask_util.decode(detection["segmentation"]).shape == (record["height"], record["width"])
