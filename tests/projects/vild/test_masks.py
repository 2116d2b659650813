"""Masks on their way into training: they go where the augmentation takes the image, and only where they are wanted."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dk_detr.data import TrainMapper, train_records
from dk_detr.engine import Trainer
from tests.projects.vild.vild_fixtures import mini, shrunk_cfg, tiny_vild
from tests.run_fixtures import SIDE, World, world_with_masks

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "resize and flip": {"INPUT__AUGMENTATION": "ShortestEdge", "INPUT__MIN_SIZE_TRAIN": (96,)},
    "jitter": {"INPUT__AUGMENTATION": "LargeScaleJitter", "INPUT__JITTER_SCALE": [0.5, 3.0]},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_masks_go_where_the_boxes_go(kind: str, world: World) -> None:
    """The outline of each object is its box. What lies outside of the image is drawn on no mask, so it may stay."""
    cfg = shrunk_cfg(world, mini("ViLD_text"), **AUGMENTATIONS[kind])
    seen = 0
    with world.in_use():
        mapper = TrainMapper(cfg, [0, 1, -1])
        for record in train_records(["mini_lvis_train"]) * 4:
            objects = mapper(record)["instances"]
            around = objects.gt_masks.get_bounding_boxes()
            around.clip(objects.image_size)
            torch.testing.assert_close(around.tensor, objects.gt_boxes.tensor, atol=1e-3, rtol=0)
            seen += len(objects)
    assert seen > 20


def test_a_mask_is_full_where_the_outline_is_the_box(world: World) -> None:
    with world.in_use():
        mapper = TrainMapper(shrunk_cfg(world, mini("ViLD_text"), **AUGMENTATIONS["jitter"]), [0, 1, -1])
        objects = next(one for one in (mapper(r)["instances"] for r in train_records(["mini_lvis_train"])) if len(one))
    drawn = objects.gt_masks.crop_and_resize(objects.gt_boxes.tensor, 28)
    assert drawn.float().mean() > 0.95


@pytest.mark.parametrize("wanted", [True, False])
def test_outlines_are_loaded_where_masks_are_on_only(wanted: bool, world: World) -> None:
    cfg = shrunk_cfg(world, mini("ViLD_text"), MODEL__MASK_ON=wanted)
    with world.in_use():
        stream = Trainer.build_train_stream(cfg, tiny_vild(world, "ViLD_text"), 0)
        (first, *_) = next(iter(stream))
    assert first["instances"].has("gt_masks") is wanted
    kept = [annotation for record in stream.samples.records for annotation in record["annotations"]]
    assert kept and all(("segmentation" in annotation) is wanted for annotation in kept)
    assert Path(first["file_name"]).is_file() and max(first["image"].shape) <= SIDE
