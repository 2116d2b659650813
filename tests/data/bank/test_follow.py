"""Regions follow their image: scaled, flipped and cropped, an embedding stays with what the image shows at its box."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from dk_detr.data import TrainMapper
from dk_detr.data.bank import (
    BankImage,
    EmbeddingBank,
    Manifest,
    ShardEntry,
    StoredRegions,
    file_sha256,
    follow,
    shard_name,
    write_manifest,
    write_shard,
)
from dk_detr.engine import setup_cfg
from tests.run_fixtures import MINI

# ---- by hand ----


def stored(*boxes: list[float]) -> StoredRegions:
    """Regions whose embeddings count them."""
    numbers = torch.arange(len(boxes)).float()
    return StoredRegions(torch.tensor(boxes).reshape(-1, 4), -numbers, numbers[:, None].half())


def boxes_of(regions: Any) -> list[list[float]]:
    return regions.proposal_boxes.tensor.tolist()


def test_a_scaled_image_scales_its_boxes() -> None:
    twice_as_wide = T.ResizeTransform(h=40, w=50, new_h=40, new_w=100)
    found = follow(stored([10, 5, 20, 35]), T.TransformList([twice_as_wide]), (40, 100), count=9)
    assert boxes_of(found) == [[20, 5, 40, 35]]


def test_a_mirrored_image_mirrors_its_boxes() -> None:
    found = follow(stored([10, 5, 20, 35]), T.TransformList([T.HFlipTransform(50)]), (40, 50), count=9)
    assert boxes_of(found) == [[30, 5, 40, 35]]


def test_what_is_cropped_is_clipped_and_what_mostly_falls_out_is_dropped() -> None:
    """The view is x from 20 to 40. In view: all, exactly half, a little less than half, nothing."""
    view = T.TransformList([T.CropTransform(x0=20, y0=0, w=20, h=30)])
    four = stored([22, 0, 30, 30], [10, 0, 30, 30], [9, 0, 30, 30], [0, 0, 15, 30])
    found = follow(four, view, (30, 20), count=9)
    assert boxes_of(found) == [[2, 0, 10, 30], [0, 0, 10, 30], [0, 0, 10, 30]][:2]
    assert found.embeddings.flatten().tolist() == [0, 1] and found.embeddings.dtype == torch.float16


def test_what_becomes_too_small_to_show_anything_is_dropped() -> None:
    half = T.TransformList([T.ResizeTransform(40, 40, 20, 20)])
    found = follow(stored([0, 0, 8, 8], [0, 0, 7, 8]), half, (20, 20), count=9, min_side=4.0)
    assert boxes_of(found) == [[0, 0, 4, 4]]


def test_the_best_of_those_in_view_are_kept() -> None:
    view = T.TransformList([T.CropTransform(x0=10, y0=0, w=10, h=10)])
    five = stored([0, 0, 5, 5], [10, 0, 15, 5], [0, 5, 5, 10], [12, 0, 20, 5], [10, 2, 20, 8])
    found = follow(five, view, (10, 10), count=2)
    assert found.embeddings.flatten().tolist() == [1, 3]
    assert found.objectness_logits.tolist() == [-1, -3]


def test_an_image_without_regions_stays_without() -> None:
    found = follow(stored(), T.TransformList([T.HFlipTransform(50)]), (40, 50), count=9)
    assert len(found) == 0 and boxes_of(found) == []


# ---- through the mapper: embeddings that say which colour their box shows ----

HEIGHT, WIDTH = 120, 160
COLOURS = [(r, g, b) for r in (30, 220) for g in (30, 220) for b in (30, 220)]
JITTER = ("INPUT.AUGMENTATION", "LargeScaleJitter", "INPUT.JITTER_SIZE", 128, "INPUT.JITTER_SCALE", [0.5, 3.0])
RESIZE = ("INPUT.MIN_SIZE_TRAIN", (90, 150), "INPUT.MAX_SIZE_TRAIN", 400)


def config(*opts: Any) -> CfgNode:
    return setup_cfg(MINI, [str(word) for word in ("MODEL.CLIP.WEIGHTS", "''", *opts)])


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """An image of eight rectangles, each of another colour, on grey."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for x0, y0, x1, y1, colour in rectangles():
        pixels[y0:y1, x0:x1] = colour
    path = tmp_path_factory.mktemp("colours") / "colours.png"
    Image.fromarray(pixels).save(path)
    anything = {"bbox": [0, 0, 20, 20], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0, "iscrowd": 0}
    return {
        "file_name": str(path), "image_id": 5, "height": HEIGHT, "width": WIDTH, "annotations": [anything],
    }  # fmt: skip


def rectangles() -> Iterator[tuple[int, int, int, int, tuple[int, int, int]]]:
    """Of different sizes, none at the middle axis, so that a forgotten flip shows."""
    for number, colour in enumerate(COLOURS):
        x, y = 3 + 39 * (number % 4), 5 + 56 * (number // 4)
        yield x, y, x + 20 + 4 * (number % 3), y + 24 + 3 * number, colour


@pytest.fixture(scope="module")
def bank(record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> EmbeddingBank:
    """Its rectangles with their colours."""
    folder = tmp_path_factory.mktemp("bank")
    boxes = torch.tensor([rectangle[:4] for rectangle in rectangles()]).float()
    colours = torch.tensor(COLOURS).half()
    path = folder / shard_name(0)
    write_shard(path, {}, 0, [BankImage.of(record)], [StoredRegions(boxes, -torch.arange(8.0), colours)])
    entry = ShardEntry(path.name, 1, 8, path.stat().st_size, file_sha256(path))
    write_manifest(folder, Manifest({}, (entry,)))
    return EmbeddingBank(folder)


def extent(image: torch.Tensor, colour: torch.Tensor) -> torch.Tensor | None:
    """The box xyxy around the pixels that are nearly of that colour; None where there is no such pixel."""
    near = ((image.float() - colour.view(3, 1, 1)).abs() < 40).all(0)
    y, x = near.nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float() if len(x) else None


@pytest.mark.parametrize("augmentation", [JITTER, RESIZE], ids=["jitter", "resize"])
def test_the_augmented_image_shows_at_each_box_the_colour_that_its_embedding_names(
    augmentation: tuple[Any, ...], record: dict[str, Any], bank: EmbeddingBank
) -> None:
    mapper = TrainMapper(config(*augmentation), [0], bank)
    flipped, lost = set(), 0
    for seed in range(30):
        np.random.seed(seed)
        sample = mapper(record)
        regions = sample["regions"]
        assert regions.image_size == tuple(sample["image"].shape[-2:])
        for box, colour in zip(regions.proposal_boxes.tensor, regions.embeddings):
            shown = extent(sample["image"], colour.float())
            assert shown is not None
            assert (shown - box).abs().amax() <= 3.0, seed  # resizing blurs an edge over a pixel or two
        lost += 8 - len(regions)
        first, last = (extent(sample["image"], torch.tensor(COLOURS[i]).float()) for i in (0, 3))
        flipped |= {bool(first[0] > last[0])} if first is not None and last is not None else set()
    assert flipped == {True, False}  # both were seen
    assert (lost > 30) == (augmentation is JITTER)  # crops lose some, resizing none


def test_a_sample_has_at_most_so_many_regions_the_best_first(record: dict[str, Any], bank: EmbeddingBank) -> None:
    sample = TrainMapper(config(*RESIZE, "MODEL.TEACHER.BANK_REGIONS", 3), [0], bank)(record)
    assert sample["regions"].objectness_logits.tolist() == [0, -1, -2]


def test_regions_that_are_small_in_the_augmented_image_are_left_out(
    record: dict[str, Any], bank: EmbeddingBank
) -> None:
    """At the size on disk the narrowest rectangles are 20, 24 and 28 wide."""
    resized = ("INPUT.MIN_SIZE_TRAIN", (HEIGHT,), "INPUT.MAX_SIZE_TRAIN", WIDTH)
    sample = TrainMapper(config(*resized, "MODEL.KD.MIN_SIDE", 23.0), [0], bank)(record)
    widths = sample["regions"].proposal_boxes.tensor[:, 2] - sample["regions"].proposal_boxes.tensor[:, 0]
    assert sorted(widths.round().tolist()) == [24, 24, 24, 28, 28]


def test_a_bank_changes_nothing_else_of_a_sample(record: dict[str, Any], bank: EmbeddingBank) -> None:
    with_bank, without = TrainMapper(config(*JITTER), [0], bank), TrainMapper(config(*JITTER), [0])
    for seed in range(5):
        np.random.seed(seed)
        one = with_bank(record)
        np.random.seed(seed)
        other = without(record)
        assert torch.equal(one["image"], other["image"]) and "regions" not in other
        assert torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)


def test_an_image_that_the_bank_lacks_is_named(record: dict[str, Any], bank: EmbeddingBank) -> None:
    with pytest.raises(KeyError, match="has no image 6"):
        TrainMapper(config(*RESIZE), [0], bank)({**record, "image_id": 6})


def test_the_file_of_a_bank_may_be_elsewhere(bank: EmbeddingBank, tmp_path: Path) -> None:
    for path in bank.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert torch.equal(EmbeddingBank(tmp_path)[5].embeddings, bank[5].embeddings)
