"""R18 on photos of COCO, taught by a random R50: two iterations, exact resumption, a plain detector at the end."""

import json
import math
from pathlib import Path

from detectron2.modeling import build_model

from dk_detr.engine import setup_cfg
from dk_detr.engine.checkpoint import StrictCheckpointer
from tests.photo_fixtures import needs_photos, options, registered, resume_on_photos
from tests.projects.detrdistill.config_fixtures import CONFIGS, saved_teacher
from tests.run_fixtures import REPOSITORY, own_log_handlers

pytestmark = needs_photos

SMALL = {
    "MODEL__WEIGHTS": "''", "MODEL__VOCABULARY__OF_DATASETS": [], "MODEL__DETR__NUM_QUERIES": 60, "DATASETS__TEST": (),
    "INPUT__MIN_SIZE_TRAIN": (128,), "INPUT__MAX_SIZE_TRAIN": 160, "INPUT__AUGMENTATION": "ShortestEdge",
    "SOLVER__CHECKPOINT_PERIOD": 1,
}  # fmt: skip


def test_r50_teaches_r18_beside_clip(tmp_path: Path) -> None:
    config = CONFIGS / "dk_detr_R50_teaches_R18.yaml"
    with own_log_handlers(), registered(tmp_path):
        keys = {**SMALL, "MODEL__DETR__PADDED_SIZE": 160}
        teacher = setup_cfg(str(REPOSITORY / "configs" / "dk_detr_R50.yaml"), options(tmp_path, **keys))
        keys |= saved_teacher(teacher, tmp_path / "teacher")
        run = resume_on_photos(str(config), tmp_path, **keys)
    losses = json.loads((run / "metrics.json").read_text().splitlines()[0])
    taught = {name: loss for name, loss in losses.items() if name.startswith("loss_dd_")}
    assert len(taught) == 10 and all(map(math.isfinite, taught.values()))
    plain = setup_cfg(str(CONFIGS / "dk_detr_R18.yaml"), options(tmp_path, **SMALL))
    StrictCheckpointer(build_model(plain).eval()).load(str(run / "model_final.pth"))
