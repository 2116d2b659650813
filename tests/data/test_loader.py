"""TrainStream: the stream of samples is a function of seed, worker and position, and of nothing else."""

import json
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data.samplers import TrainingSampler

from dk_detr.data import TrainMapper, TrainStream, build_train_stream, register, train_records
from dk_detr.engine import setup_cfg
from tests.run_fixtures import MINI, NUM_IMAGES, World, make_world, write_json

LABELS = [0, 1, -1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with make_world(tmp_path_factory.mktemp("world")).in_use() as world:
        yield world


def config(world: World, **more: Any) -> CfgNode:
    return setup_cfg(MINI, world.options(**{"INPUT__AUGMENTATION": "LargeScaleJitter", **more}))


def stream(world: World, seed: int = 0, **more: Any) -> TrainStream:
    return stream_of(config(world, **more), seed=seed)


def stream_of(cfg: CfgNode, labels: list[int] = LABELS, seed: int = 0) -> TrainStream:
    """Of DATASETS.TRAIN."""
    records = train_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    return build_train_stream(cfg, records, TrainMapper(cfg, labels), seed)


def first(source: TrainStream, batches: int) -> list[list[dict[str, Any]]]:
    return list(islice(source, batches))


def assert_same(one: list[list[dict[str, Any]]], other: list[list[dict[str, Any]]]) -> None:
    """File by file, pixel by pixel, box by box."""
    assert len(one) == len(other)
    for a, b in zip(chain(*one), chain(*other)):
        assert a["file_name"] == b["file_name"]
        assert torch.equal(a["image"], b["image"])
        assert torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor)
        assert torch.equal(a["instances"].gt_classes, b["instances"].gt_classes)


def files(batches: list[list[dict[str, Any]]]) -> list[str]:
    return [Path(sample["file_name"]).name for batch in batches for sample in batch]


def test_batches_have_the_size_of_the_config(world: World) -> None:
    assert [len(batch) for batch in first(stream(world, SOLVER__IMS_PER_BATCH=3), 4)] == [3, 3, 3, 3]


def test_the_number_of_worker_processes_changes_nothing(world: World) -> None:
    assert_same(first(stream(world), 4), first(stream(world, DATALOADER__NUM_WORKERS=2), 4))


def test_beginning_at_an_iteration_gives_what_comes_there(world: World) -> None:
    whole, later = stream(world), stream(world)
    later.start_iteration = 3
    assert_same(first(whole, 6)[3:], first(later, 3))


def test_beginning_later_with_worker_processes_gives_the_same(world: World) -> None:
    whole, later = stream(world), stream(world, DATALOADER__NUM_WORKERS=2)
    later.start_iteration = 2
    assert_same(first(whole, 4)[2:], first(later, 2))


def test_nothing_is_loaded_before_the_first_batch_is_asked_for(world: World) -> None:
    """Detectron2's trainer takes the iterator when it is built, before it knows where to resume."""
    source = stream(world)
    iterator = iter(source)
    source.start_iteration = 1
    assert_same([next(iterator)], first(stream(world), 2)[1:])


def test_every_image_comes_once_in_an_epoch(world: World) -> None:
    names = files(first(stream(world), NUM_IMAGES))  # of two images each: two epochs
    assert sorted(names[:NUM_IMAGES]) == sorted(names[NUM_IMAGES:]) == sorted(set(names))
    assert len(set(names)) == NUM_IMAGES
    assert names[:NUM_IMAGES] != names[NUM_IMAGES:]


def test_an_image_is_augmented_anew_each_time(world: World) -> None:
    batches = first(stream(world), NUM_IMAGES)
    seen = [sample["image"] for batch in batches for sample in batch if "000001" in sample["file_name"]]
    assert len(seen) == 2 and not (seen[0].shape == seen[1].shape and torch.equal(*seen))


def test_another_seed_gives_another_order(world: World) -> None:
    assert files(first(stream(world, seed=0), 4)) != files(first(stream(world, seed=1), 4))


def test_two_workers_share_the_images_and_augment_differently(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = first(stream(world, SOLVER__IMS_PER_BATCH=1), NUM_IMAGES)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        shares.append(first(stream(world, SOLVER__IMS_PER_BATCH=2), NUM_IMAGES // 2))
    assert files(shares[0]) + files(shares[1]) == files(alone[0::2]) + files(alone[1::2])
    assert all(len(batch) == 1 for share in shares for batch in share)


def test_the_same_image_looks_different_to_two_workers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = config(world)
    seen = []
    for rank in (0, 1):
        monkeypatch.setattr("detectron2.utils.comm.get_rank", lambda rank=rank: rank)
        records = train_records(["mini_lvis_train"])[:1]
        source = TrainStream(records, TrainMapper(cfg, LABELS), TrainingSampler(1, seed=0), batch_size=1, seed=0)
        seen.append([batch[0]["image"] for batch in first(source, 3)])
    assert not all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(*seen))


def test_the_global_random_states_are_left_alone(world: World) -> None:
    np.random.seed(5)
    torch.manual_seed(5)
    expected = np.random.random(), torch.rand(())
    np.random.seed(5)
    torch.manual_seed(5)
    first(stream(world), 3)
    assert np.random.random() == expected[0]
    assert torch.equal(torch.rand(()), expected[1])


def test_rare_categories_come_more_often_with_repeat_factors(world: World) -> None:
    """Blue is on half of the images; with a threshold of 1 these come sqrt(2) times as often as the others."""
    repeated = stream(world, DATALOADER__SAMPLER_TRAIN="RepeatFactorTrainingSampler", DATALOADER__REPEAT_THRESHOLD=1.0)
    has_blue = [len(record["annotations"]) == 3 for record in train_records(["mini_lvis_train_norare"])]
    drawn = [has_blue[index] for index in islice(repeated.sampler, 5000)]
    assert sum(drawn) / len(drawn) == pytest.approx(2**0.5 / (2**0.5 + 1), abs=0.02)


CLASS_BALANCED = {"DATALOADER__SAMPLER_TRAIN": "ClassBalancedTrainingSampler", "DATALOADER__REPEAT_THRESHOLD": 1.0}


def test_a_class_balanced_epoch_has_whole_repeats(world: World) -> None:
    """Half of the images show blue: sqrt(2) is 2, as in mmdet, and not 1 or 2 by chance."""
    balanced = stream(world, **CLASS_BALANCED)
    has_blue = [len(record["annotations"]) == 3 for record in train_records(["mini_lvis_train_norare"])]
    length = sum(1 + blue for blue in has_blue)
    drawn = list(islice(balanced.sampler, 2 * length))
    for epoch in (drawn[:length], drawn[length:]):
        assert [epoch.count(index) for index in range(len(has_blue))] == [1 + blue for blue in has_blue]


def test_the_log_says_how_long_an_epoch_is(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="dk_detr.data.loader")
    schedule = {"SOLVER__IMS_PER_BATCH": 4, "SOLVER__MAX_ITER": 9}
    for sampler, said in (
        ({}, ("8 samples of 8 images (TrainingSampler)", "4.50")),
        (CLASS_BALANCED, ("12 samples of 8 images (ClassBalancedTrainingSampler)", "3.00")),
    ):
        stream(world, **schedule, **sampler)
        length, epochs = said
        schedule_said = f"SOLVER.MAX_ITER 9 with batches of 4 is {epochs} epochs."
        assert f"An epoch is {length}: {schedule_said}" in caplog.messages


# ---- samples without an object ----

FAR_OFF = {"INPUT__JITTER_SIZE": 16, "INPUT__JITTER_SCALE": [4.0, 4.0]}  # a quarter of each side: often, of nothing


def test_a_sample_without_an_object_is_kept_as_it_is(world: World) -> None:
    assert 0 in {len(sample["instances"]) for batch in first(stream(world, **FAR_OFF), 12) for sample in batch}


def test_a_sample_without_an_object_is_drawn_from_another_image_if_asked(world: World) -> None:
    kept, redrawn = (first(stream(world, INPUT__EMPTY_SAMPLES=each, **FAR_OFF), 12) for each in ("Keep", "Redraw"))
    pairs = list(zip(chain(*kept), chain(*redrawn)))
    assert all(len(new["instances"]) for _, new in pairs)
    had_none = [old["file_name"] != new["file_name"] for old, new in pairs if not len(old["instances"])]
    assert sum(had_none) > len(had_none) / 2
    for old, new in pairs:
        if len(old["instances"]):
            assert old["file_name"] == new["file_name"] and torch.equal(old["image"], new["image"])


def test_a_sample_that_was_drawn_anew_follows_from_its_position_alone(world: World) -> None:
    options = {"INPUT__EMPTY_SAMPLES": "Redraw", **FAR_OFF}
    later = stream(world, DATALOADER__NUM_WORKERS=2, **options)
    later.start_iteration = 3
    assert_same(first(stream(world, **options), 6)[3:], first(later, 3))


def test_where_no_image_shows_an_object_an_empty_sample_comes_in_the_end(world: World) -> None:
    cfg = config(world, INPUT__EMPTY_SAMPLES="Redraw")
    ((sample, _), *_) = first(stream_of(cfg, [-1, -1, -1]), 1)
    assert len(sample["instances"]) == 0


# ----


def test_the_records_of_several_data_sets_come_one_after_the_other(world: World) -> None:
    assert len(train_records(["mini_lvis_train", "mini_lvis_val"])) == 2 * NUM_IMAGES


def test_images_without_boxes_are_left_out(world: World, tmp_path: Path) -> None:
    content = json.loads((world.root / "mini_lvis/annotations/mini_lvis_train.json").read_text())
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 2]
    register("without_two", write_json(tmp_path / "without_two.json", content), str(world.root / "mini_lvis"))
    assert [record["image_id"] for record in train_records(["without_two"])] == [1, 3, 4, 5, 6, 7, 8]
    assert [record["image_id"] for record in train_records(["without_two"], False)] == [1, 2, 3, 4, 5, 6, 7, 8]
    cfg = config(world, DATASETS__TRAIN=("without_two",), DATALOADER__FILTER_EMPTY_ANNOTATIONS=False)
    batches = first(stream_of(cfg), 4)
    assert 0 in {len(sample["instances"]) for batch in batches for sample in batch}


# ---- refusals ----


def test_a_batch_that_cannot_be_divided_is_refused_with_both_numbers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="SOLVER.IMS_PER_BATCH 3 cannot be divided among 2 workers"):
        stream(world, SOLVER__IMS_PER_BATCH=3)


def test_an_unknown_sampler_is_refused_with_those_that_are_known(world: World) -> None:
    with pytest.raises(ValueError, match='DATALOADER.SAMPLER_TRAIN is "Random"; choose one of TrainingSampler, Repeat'):
        stream(world, DATALOADER__SAMPLER_TRAIN="Random")


def test_an_unknown_way_with_empty_samples_is_refused_with_those_that_are_known(world: World) -> None:
    with pytest.raises(ValueError, match='INPUT.EMPTY_SAMPLES is "Drop"; choose one of Keep, Redraw'):
        stream(world, INPUT__EMPTY_SAMPLES="Drop")
