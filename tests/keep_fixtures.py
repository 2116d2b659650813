"""What tests of fine-tuning share: a trained detector of the tests' world, and a few labels of one new word."""

import json
from pathlib import Path
from typing import Any

from tests.run_fixtures import World, write_json

NEW = "blue_box"  # novel in the world
QUICK: dict[str, Any] = {"SOLVER__MAX_ITER": 2, "SOLVER__WARMUP_ITERS": 0, "SOLVER__STEPS": (), "SOLVER__BASE_LR": 0.01}


def trained(world: World, folder: Path, **more: Any) -> Path:
    """The weights of a short training on the base words of the world."""
    return world.train(folder, DATASETS__TEST=(), **{**QUICK, **more}) / "model_final.pth"


def few_labels(world: World, folder: Path) -> dict[str, Any]:
    """Options of a fine-tuning on boxes of `NEW` alone, evaluated on the same."""
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_train.json").read_text())
    categories = [{"id": c["id"], "name": c["name"]} for c in content["categories"] if c["name"] == NEW]
    boxes = [box for box in content["annotations"] if box["category_id"] == categories[0]["id"]]
    fields = ("id", "file_name", "width", "height")
    images = [{field: image[field] for field in fields} for image in content["images"]]
    path = write_json(folder / "new.json", {"images": images, "annotations": boxes, "categories": categories})
    own = {"TRAIN_JSON": path, "TRAIN_IMAGES": world.root / "mini_lvis", "VAL_JSON": path}
    own["VAL_IMAGES"] = own["TRAIN_IMAGES"]
    custom = {f"DATASETS__CUSTOM__{key}": value for key, value in own.items()}
    return {**QUICK, **custom, "MODEL__TRAINING_EXTENSIONS": [], "MODEL__KD__TERMS": []}
