"""TrainMapper: boxes stay on their objects whatever the augmentation does, and novel objects lose theirs."""

from pathlib import Path
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.structures import BoxMode
from PIL import Image

from dk_detr.data import TrainMapper, labels_among, train_augmentations
from dk_detr.data import test_mapper as evaluation_mapper  # under its own name it would pass for a test
from dk_detr.engine import setup_cfg
from tests.run_fixtures import COLOURS, MINI

LABELS = [0, 1, -1]  # red, green, blue: novel
HEIGHT, WIDTH = 48, 64
RED, GREEN = [5, 6, 20, 30], [40, 10, 16, 24]  # boxes xywh


def config(*opts: Any) -> CfgNode:
    return setup_cfg(MINI, [str(word) for word in ("MODEL.CLIP.WEIGHTS", "''", *opts)])


JITTER = ("INPUT.AUGMENTATION", "LargeScaleJitter", "INPUT.JITTER_SIZE", 64)
RESIZE = ("INPUT.MIN_SIZE_TRAIN", (HEIGHT,), "INPUT.MAX_SIZE_TRAIN", WIDTH)


@pytest.fixture
def record(tmp_path: Path) -> dict[str, Any]:
    """An image with a red, a green and a blue box."""
    return draw(tmp_path / "image.png", [(0, RED), (1, GREEN), (2, [28, 2, 8, 8])])


def draw(path: Path, boxes: list[tuple[int, list[int]]], height: int = HEIGHT, width: int = WIDTH) -> dict[str, Any]:
    pixels = np.full((height, width, 3), 128, np.uint8)
    for label, (x, y, w, h) in boxes:
        pixels[y : y + h, x : x + w] = COLOURS[label]
    Image.fromarray(pixels).save(path)
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": label, "iscrowd": 0} for label, box in boxes
    ]
    return {"file_name": str(path), "image_id": 1, "height": height, "width": width, "annotations": annotations}


def extent(image: torch.Tensor, label: int) -> torch.Tensor:
    """The box xyxy around the pixels that are nearly of that colour."""
    distance = (image.float() - torch.tensor(COLOURS[label]).float().view(3, 1, 1)).abs().amax(0)
    y, x = (distance < 60).nonzero(as_tuple=True)
    return torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()


def boxes_by_label(sample: dict[str, Any]) -> dict[int, torch.Tensor]:
    instances = sample["instances"]
    return {int(label): box for label, box in zip(instances.gt_classes, instances.gt_boxes.tensor)}


def samples(mapper: TrainMapper, record: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Several, with other dice each."""
    made = []
    for seed in range(count):
        np.random.seed(seed)
        made.append(mapper(record))
    return made


def test_labels_are_those_of_the_training_words(record: dict[str, Any]) -> None:
    sample = TrainMapper(config(*RESIZE), [7, 3, -1])(record)
    assert sorted(boxes_by_label(sample)) == [3, 7]


def test_novel_objects_stay_in_the_picture_without_a_box(record: dict[str, Any]) -> None:
    sample = TrainMapper(config(*RESIZE), LABELS)(record)
    assert sorted(boxes_by_label(sample)) == [0, 1]
    assert (extent(sample["image"], 2)[2:] - extent(sample["image"], 2)[:2]).tolist() == [8, 8]


def test_an_image_with_novel_objects_only_has_no_boxes(record: dict[str, Any]) -> None:
    sample = TrainMapper(config(*RESIZE), [-1, -1, -1])(record)
    assert len(sample["instances"]) == 0
    assert sample["instances"].gt_boxes.tensor.shape == (0, 4)


def test_a_crowd_has_no_box(record: dict[str, Any]) -> None:
    record["annotations"][0]["iscrowd"] = 1
    assert sorted(boxes_by_label(TrainMapper(config(*RESIZE), LABELS)(record))) == [1]


def test_channels_come_in_the_order_of_the_config(record: dict[str, Any]) -> None:
    images = []
    for order in ("RGB", "BGR"):
        images += [s["image"] for s in samples(TrainMapper(config(*RESIZE, "INPUT.FORMAT", order), LABELS), record, 1)]
    assert torch.equal(images[0], images[1].flip(0))
    assert extent(images[0], 0).tolist()[1::2] == [6, 36]  # red is red in RGB


def test_a_flip_keeps_boxes_on_their_objects(record: dict[str, Any]) -> None:
    made = samples(TrainMapper(config(*RESIZE), LABELS), record, 8)
    flipped = [bool(extent(sample["image"], 0)[0] > WIDTH / 2) for sample in made]
    assert set(flipped) == {True, False}
    for sample in made:
        for label, box in boxes_by_label(sample).items():
            assert torch.equal(box, extent(sample["image"], label))


def test_jitter_keeps_boxes_on_what_is_left_of_their_objects(record: dict[str, Any]) -> None:
    mapper = TrainMapper(config(*JITTER, "INPUT.JITTER_SCALE", [0.5, 2.0]), LABELS)
    made = samples(mapper, record, 40)
    for sample in made:
        for label, box in boxes_by_label(sample).items():
            if min(box[2] - box[0], box[3] - box[1]) > 4:  # less is hidden in the blur of resizing
                assert (box - extent(sample["image"], label)).abs().max() <= 2.0
    assert {len(sample["instances"]) for sample in made} >= {1, 2}, "no crop left an object outside"


def test_jitter_cuts_to_the_size_and_leaves_padding_to_the_detector(record: dict[str, Any]) -> None:
    made = samples(TrainMapper(config(*JITTER, "INPUT.JITTER_SCALE", [0.25, 2.0]), LABELS), record, 40)
    sides = [sample["image"].shape[1:] for sample in made]
    assert max(max(side) for side in sides) == 64 and min(max(side) for side in sides) < 32
    for sample in made:
        box = sample["instances"].gt_boxes.tensor
        height, width = sample["image"].shape[1:]
        assert sample["instances"].image_size == (height, width)
        assert bool((box >= 0).all() and (box[:, 2] <= width).all() and (box[:, 3] <= height).all())


def test_no_box_is_left_without_area(record: dict[str, Any]) -> None:
    for sample in samples(TrainMapper(config(*JITTER, "INPUT.JITTER_SCALE", [1.5, 2.0]), LABELS), record, 40):
        box = sample["instances"].gt_boxes.tensor
        assert bool((box[:, 2:] > box[:, :2]).all())


CROP = ("INPUT.AUGMENTATION", "CropOrNot", "INPUT.MIN_SIZE_TRAIN", (240, 320), "INPUT.MAX_SIZE_TRAIN", 400)


def transforms_of_detr(count: int, size: tuple[int, int]) -> list[list[T.Transform]]:
    """What is done to an image (h, w) with so many other dice."""
    augmentation, done = T.AugmentationList(train_augmentations(config(*CROP))), []
    for seed in range(count):
        np.random.seed(seed)
        transforms = augmentation(T.AugInput(np.zeros((*size, 3), np.uint8)))
        done.append([each for each in flatten(transforms) if not isinstance(each, T.NoOpTransform)])
    return done


def flatten(transforms: Any) -> list[T.Transform]:
    """Lists of lists become one."""
    if not isinstance(transforms, T.TransformList):
        return [transforms]
    return [each for inner in transforms.transforms for each in flatten(inner)]


def test_detr_cuts_every_other_image_after_a_resize_and_resizes_all() -> None:
    """The shorter side is brought to 400, 500 or 600; 384 to 600 pixels are left each way; then as without a crop."""
    done = transforms_of_detr(300, (480, 640))
    cut = [each for each in done if any(isinstance(one, T.CropTransform) for one in each)]
    assert abs(len(cut) / len(done) - 0.5) < 0.1
    shortest, heights, widths = set(), [], []
    for resize, crop, last, *flip in cut:
        assert isinstance(resize, T.ResizeTransform) and isinstance(last, T.ResizeTransform) and len(flip) <= 1
        shortest.add(min(resize.new_h, resize.new_w))
        assert (last.h, last.w) == (crop.h, crop.w)
        assert 0 <= crop.x0 <= resize.new_w - crop.w and 0 <= crop.y0 <= resize.new_h - crop.h
        heights.append(crop.h)
        widths.append(crop.w)
    assert shortest == {400, 500, 600}
    for sides in (heights, widths):
        assert 384 <= min(sides) < 400 and 560 < max(sides) <= 600
    assert heights != widths, "each way by itself"
    others = [each for each in done if each not in cut]
    assert all(isinstance(resize, T.ResizeTransform) and len(flip) <= 1 for resize, *flip in others)
    ends = [[one for one in each if isinstance(one, T.ResizeTransform)][-1] for each in done]
    assert {min(end.new_h, end.new_w) for end in ends if max(end.new_h, end.new_w) < 400} == {240, 320}
    assert max(max(end.new_h, end.new_w) for end in ends) <= 400
    flips = [each for each in done if isinstance(each[-1], T.HFlipTransform)]
    assert abs(len(flips) / len(done) - 0.5) < 0.1


def test_detrs_crop_takes_a_long_image_whole_where_it_is_narrow() -> None:
    """400 pixels high, it is cut to between 384 and 400."""
    for resize, crop, *_ in (each for each in transforms_of_detr(60, (400, 1600)) if len(each) > 2):
        if isinstance(crop, T.CropTransform):
            assert 384 <= crop.h <= min(resize.new_h, 600) and 384 <= crop.w <= 600


def test_detrs_crop_keeps_boxes_on_what_is_left_of_their_objects(record: dict[str, Any]) -> None:
    made = samples(TrainMapper(config(*CROP), LABELS), record, 30)
    assert {len(sample["instances"]) for sample in made} >= {1, 2}, "no crop left an object outside"
    for sample in made:
        scale = max(sample["image"].shape[1:]) / WIDTH
        for label, box in boxes_by_label(sample).items():
            if min(box[2] - box[0], box[3] - box[1]) > 4 * scale:  # less is hidden in the blur of resizing
                assert (box - extent(sample["image"], label)).abs().max() <= 1.5 * scale


STRIP = {
    "jitter": ("INPUT.AUGMENTATION", "LargeScaleJitter", "INPUT.JITTER_SIZE", 256),
    "resize": ("INPUT.AUGMENTATION", "ShortestEdge", "INPUT.MIN_SIZE_TRAIN", (240,), "INPUT.MAX_SIZE_TRAIN", 400),
    "crop": CROP,
}


@pytest.mark.parametrize(("height", "width"), [(1, 4000), (4000, 1)])
@pytest.mark.parametrize("augmentation", STRIP)
def test_a_strip_keeps_a_pixel_and_its_box(augmentation: str, height: int, width: int, tmp_path: Path) -> None:
    long = draw(tmp_path / "strip.png", [(0, [0, 0, width, height])], height, width)
    for sample in samples(TrainMapper(config(*STRIP[augmentation]), LABELS), long, 6):
        high, wide = sample["image"].shape[1:]
        assert min(high, wide) >= 1 and max(high, wide) <= 600
        ((x0, y0, x1, y1),) = sample["instances"].gt_boxes.tensor.tolist()
        assert (x0, y0) == (0, 0) and (x1, y1) == pytest.approx((wide, high))
    sample = evaluation_mapper(config("INPUT.MIN_SIZE_TEST", 240, "INPUT.MAX_SIZE_TEST", 400))(long)
    assert sorted(sample["image"].shape) == [1, 3, 400]


def test_the_mapper_leaves_the_record_alone(record: dict[str, Any]) -> None:
    before = {**record, "annotations": [dict(a) for a in record["annotations"]]}
    TrainMapper(config(*RESIZE), LABELS)(record)
    assert record == before


def test_evaluation_neither_flips_nor_reads_boxes(record: dict[str, Any]) -> None:
    mapper = evaluation_mapper(config("INPUT.MIN_SIZE_TEST", HEIGHT, "INPUT.MAX_SIZE_TEST", WIDTH))
    for seed in range(4):
        np.random.seed(seed)
        sample = mapper(record)
        assert extent(sample["image"], 0).tolist() == [5, 6, 25, 36]
        assert "instances" not in sample and (sample["height"], sample["width"]) == (HEIGHT, WIDTH)


# ---- refusals ----


@pytest.mark.parametrize("mapper", [lambda: TrainMapper(config(*RESIZE), LABELS), lambda: evaluation_mapper(config())])
def test_an_image_that_cannot_be_read_is_named(mapper: Any, record: dict[str, Any]) -> None:
    path = Path(record["file_name"])
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"no image", b""):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"Image {path} cannot be read .*Fetch it again, or leave it out"):
            mapper()(record)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"Image {path} is not there"):
        mapper()(record)


def test_a_truncated_jpeg_is_named(record: dict[str, Any]) -> None:
    path = Path(record["file_name"]).with_suffix(".jpg")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=f"Image {path} cannot be read"):
        TrainMapper(config(*RESIZE), LABELS)({**record, "file_name": str(path)})


def test_an_image_of_another_size_than_the_file_says_is_named(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="image.png"):
        TrainMapper(config(*RESIZE), LABELS)({**record, "width": WIDTH + 1})


def test_an_unknown_augmentation_is_refused_with_those_that_are_known() -> None:
    known = "choose one of LargeScaleJitter, ShortestEdge, CropOrNot"
    with pytest.raises(ValueError, match=f'INPUT.AUGMENTATION is "Jitter"; {known}'):
        train_augmentations(config("INPUT.AUGMENTATION", "Jitter"))


def test_labels_follow_the_words_of_training_and_novel_is_minus_one() -> None:
    assert labels_among(["cat", "yak", "dog"], ["dog", "cat"], ["yak"], "pets") == [1, -1, 0]


def test_a_category_that_is_neither_base_nor_novel_is_refused_by_name() -> None:
    message = '2 of the 3 categories of "pets" are unknown to the vocabulary; the first is "emu"'
    with pytest.raises(ValueError, match=message):
        labels_among(["cat", "emu", "gnu"], ["dog", "cat"], ["yak"], "pets")


def test_a_vocabulary_that_would_train_what_a_benchmark_hides_is_refused() -> None:
    """OV-COCO with COCO's 80 words, all of them base, as the bare matrices that others ship are."""
    names = ["person", "airplane", "cat"]
    with pytest.raises(ValueError, match='hides 17 novel categories.*has 2 of them.*the first is "airplane"'):
        labels_among(names, names, [], "coco_zeroshot_train_oriorder")
    assert labels_among(names, ["person"], names[1:], "coco_zeroshot_train_oriorder") == [0, -1, -1]
