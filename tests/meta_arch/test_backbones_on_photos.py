"""Detectors on image models of timm and of CLIP, on photos of COCO: they train, go on exactly, and are scored.

The models are the smallest of their kinds.
"""

import math
from pathlib import Path
from typing import Any

import pytest

from dk_detr.engine.run_folder import read_results
from tests.meta_arch.test_clip_backbone import TOWER
from tests.photo_fixtures import needs_photos, registered, resume_on_photos
from tests.run_fixtures import REPOSITORY, own_log_handlers, state_of, write_json

pytestmark = needs_photos

SIZES = {"NUM_QUERIES": 50, "ENCODER_LAYERS": 1, "DECODER_LAYERS": 2}
SMALL = {
    **{f"MODEL__DETR__{key}": value for key, value in SIZES.items()},
    "INPUT__MIN_SIZE_TRAIN": (128,), "INPUT__MAX_SIZE_TRAIN": 160, "INPUT__AUGMENTATION": "ShortestEdge",
    "SOLVER__CHECKPOINT_PERIOD": 1,
}  # fmt: skip
SWIN: dict[str, Any] = {"NAME": "swin_tiny_patch4_window7_224", "PRETRAINED": "''"}
CONVNEXT: dict[str, Any] = {"NAME": "test_convnext"}


@pytest.mark.parametrize(
    ("config", "model", "more"),
    [("dino_swin_L", SWIN, {}), ("dk_detr_convnext_clip", CONVNEXT, {"MODEL__DETR__PADDED_SIZE": 160})],
)
def test_a_detector_on_it_trains_goes_on_and_is_scored(
    config: str, model: dict[str, Any], more: dict[str, Any], tmp_path: Path
) -> None:
    path = str(REPOSITORY / "configs" / f"{config}.yaml")
    keys = {**SMALL, **{f"MODEL__TIMM__{key}": value for key, value in model.items()}, **more}
    keys |= {"MODEL__CLIP__ARCHITECTURE": write_json(tmp_path / "tower.json", TOWER)}
    with own_log_handlers(), registered(tmp_path, 2):
        run = resume_on_photos(path, tmp_path, **keys)
    found = read_results(str(run))
    assert found is not None and math.isfinite(found["results"]["bbox"]["AP"])
    first, last = (state_of(run / name)["model"] for name in ("model_0000000.pth", "model_final.pth"))
    moved = [name for name in first if name.startswith("backbone.") and (first[name] != last[name]).any()]
    assert bool(moved) == (config != "dk_detr_convnext_clip")  # which is frozen
