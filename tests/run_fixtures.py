"""Runs in the tiny world of `tools/gpu_check.py`: data sets, a CLIP, a vocabulary, and configs shrunk to seconds."""

from pathlib import Path
from typing import Any

import torch

from dk_detr.commands.gpu_check.tiny_world import (
    CLIP,
    COCO_IDS,
    COLOURS,
    FREQUENCIES,
    MINI,
    NAMES,
    NUM_IMAGES,
    SHRUNK,
    SIDE,
    WIDTH,
    World,
    add_box,
    annotations_of,
    draw_images,
    image_entry,
    make_world,
    outline,
    own_log_handlers,
    with_urls,
    words,
    world_with_masks,
    write_json,
)
from dk_detr.commands.gpu_check.tiny_world import ROOT as REPOSITORY

__all__ = [
    "CLIP", "COCO_IDS", "COLOURS", "FREQUENCIES", "MINI", "NAMES", "NUM_IMAGES", "REPOSITORY", "SHRUNK", "SIDE",
    "WIDTH", "World", "add_box", "annotations_of", "assert_same_training", "draw_images", "flatten", "image_entry",
    "make_world", "outline", "own_log_handlers", "state_of", "with_urls", "words", "world_with_masks", "write_json",
]  # fmt: skip


def state_of(path: Path) -> dict[str, Any]:
    """A checkpoint."""
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def assert_same_training(one: Path, other: Path) -> None:
    """Two checkpoints hold bit for bit the same weights and the same optimizer."""
    first, second = flatten(state_of(one)), flatten(state_of(other))
    assert first.keys() == second.keys()
    different = [key for key, value in first.items() if not torch.equal(value, second[key])]
    assert not different, f"{len(different)} of {len(first)} differ, among them {different[:3]}"


def resume_after_the_first(world: World, folder: Path, config: str, **given: Any) -> Path:
    """Train a config whole, and again from its first checkpoint on: bit for bit the same. Returns the whole run."""
    whole, resumed = world.train(folder / "whole", config=config, **given), folder / "resumed"
    resumed.mkdir()
    (resumed / "model_0000000.pth").write_bytes((whole / "model_0000000.pth").read_bytes())
    (resumed / "last_checkpoint").write_text("model_0000000.pth")
    world.train(resumed, config=config, resume=True, **given)
    assert_same_training(resumed / "model_final.pth", whole / "model_final.pth")
    return whole


def flatten(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """All numbers of a nested state, by the path to them."""
    if isinstance(state, torch.Tensor | int | float | bool):
        return {prefix: torch.as_tensor(state)}
    items = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list | tuple) else ()
    return {k: v for key, value in items for k, v in flatten(value, f"{prefix}/{key}").items()}
