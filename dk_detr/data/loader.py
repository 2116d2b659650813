"""The training stream: the same samples with the same augmentation for a seed, however it is cut.

Each sample is drawn with random numbers of its own position in the stream. So a run that was interrupted goes on with
what would have come next, and the number of worker processes changes nothing.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.build import filter_images_with_only_crowd_annotations, trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch import Generator
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

logger = logging.getLogger(__name__)

Sample = dict[str, Any]


class TrainStream:
    """An endless stream of batches that can begin anywhere.

    Args:
        records: Detectron2's records. mapper: record -> sample. sampler: endless indices of this worker.
        batch_size: of this worker. seed: of the augmentation. num_workers: processes that load.
    """

    def __init__(
        self,
        records: list[Sample],
        mapper: Callable[[Sample], Sample],
        sampler: Sampler[int],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
    ) -> None:
        self.samples = _SeededSamples(records, mapper, seed)
        self.sampler, self.batch_size, self.num_workers = sampler, batch_size, num_workers
        self.start_iteration = 0

    def __iter__(self) -> Iterator[list[Sample]]:
        # A generator: nothing starts before the first batch is asked for, so `start_iteration` can still be set.
        skipped = self.start_iteration * self.batch_size
        positions: Any = _Positions(self.sampler, skipped)
        batches: Any = BatchSampler(positions, self.batch_size, drop_last=True)
        yield from DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=trivial_batch_collator,
            # Else it draws from the global one, once a start: a resumed run would go on with other dropout.
            generator=Generator(),
        )


class _Positions(Sampler[tuple[int, int]]):
    """(position in the stream, index of the record), from a position on."""

    def __init__(self, sampler: Sampler[int], skipped: int) -> None:
        self.sampler, self.skipped = sampler, skipped

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return islice(zip(count(), self.sampler), self.skipped, None)


class _SeededSamples(Dataset[Sample]):
    def __init__(self, records: list[Sample], mapper: Callable[[Sample], Sample], seed: int) -> None:
        self.records, self.mapper, self.seed = DatasetFromList(records), mapper, seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, index = key
        with _numpy_seed(self.seed, comm.get_rank(), position):
            return self.mapper(self.records[index])


@contextmanager
def _numpy_seed(*seed: int) -> Iterator[None]:
    """Detectron2's augmentations draw from NumPy's global generator; it is put back as it was."""
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence([abs(part) for part in seed]).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(state)


def train_records(names: list[str]) -> list[Sample]:
    """The records of data sets that have at least one box."""
    records = [record for name in names for record in DatasetCatalog.get(name)]
    _tell_crowds(records, names)
    records = filter_images_with_only_crowd_annotations(records)
    if not records:
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f"No image of {known} (DATASETS.TRAIN) has a box: there is nothing to train on.")
    return records


def _tell_crowds(records: list[Sample], names: list[str]) -> None:
    """Tools that write all masks as crowds leave nothing to train on, which nothing else would say."""
    flags = [annotation.get("iscrowd", 0) for record in records for annotation in record["annotations"]]
    if any(flags):
        logger.warning(
            "%d of %d annotations of %s are crowds (iscrowd 1), and are not trained on.",
            sum(map(bool, flags)), len(flags), ", ".join(names),
        )  # fmt: skip


def build_train_stream(cfg: CfgNode, mapper: Callable[[Sample], Sample], seed: int) -> TrainStream:
    """The stream of DATASETS.TRAIN with SOLVER.IMS_PER_BATCH images in all workers together."""
    return stream_of(cfg, train_records(cfg.DATASETS.TRAIN), mapper, seed)


def stream_of(cfg: CfgNode, records: list[Sample], mapper: Callable[[Sample], Sample], seed: int) -> TrainStream:
    """The same of records that are loaded already."""
    if cfg.MODEL.MASK_ON:
        _require_outlines(records)
    else:  # outlines would be most of what loader processes keep
        for annotation in chain.from_iterable(record["annotations"] for record in records):
            annotation.pop("segmentation", None)
    world = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world} workers evenly."
        )
    batch_size = cfg.SOLVER.IMS_PER_BATCH // world
    sampler = _build_sampler(cfg, records, seed)
    return TrainStream(records, mapper, sampler, batch_size, seed, cfg.DATALOADER.NUM_WORKERS)


def _require_outlines(records: list[Sample]) -> None:
    """Polygons of fewer than three points are left out, as in Detectron2; what has no other cannot teach a mask."""
    dropped = 0
    for record in records:
        for annotation in record["annotations"]:
            outline = annotation.get("segmentation")
            if isinstance(outline, list):
                drawn = [polygon for polygon in outline if len(polygon) >= 6 and len(polygon) % 2 == 0]
                dropped += len(outline) - len(drawn)
                annotation["segmentation"] = outline = drawn
            if not outline and not annotation.get("iscrowd"):
                raise ValueError(
                    f"Image {record['file_name']} (id {record['image_id']}) has an object at {annotation['bbox']} "
                    "without a polygon of three points or a mask, and MODEL.MASK_ON learns masks. Draw it, drop it, or "
                    "set MODEL.MASK_ON False."
                )
    if dropped:
        logger.warning("%d polygons have fewer than three points, or half a point, and are left out.", dropped)


def _build_sampler(cfg: CfgNode, records: list[Sample], seed: int) -> Sampler[int]:
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, cfg.DATALOADER.REPEAT_THRESHOLD
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(
        f'DATALOADER.SAMPLER_TRAIN is "{name}"; choose TrainingSampler or RepeatFactorTrainingSampler.'
    )
