"""The training stream: a seed gives the same samples with the same augmentation, wherever the stream begins.

Each sample is drawn with random numbers of its own position in the stream. So a run that was interrupted goes on with
what would have come next, and the number of worker processes changes nothing.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, DatasetFromList
from detectron2.data.build import filter_images_with_only_crowd_annotations, trivial_batch_collator
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch import Generator, Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from dk_detr.data.masks import check_masks
from dk_detr.utils import choose, require

Sample = dict[str, Any]
MOST_DRAWS = 100  # images that are tried for one sample, until an object is in view
logger = logging.getLogger(__name__)


class TrainStream:
    """An endless stream of batches that can begin anywhere.

    Args:
        records: Detectron2's records. mapper: record -> sample. sampler: endless indices of this worker.
        batch_size: of this worker. seed: of the augmentation. num_workers: processes that load.
        empty: what becomes of a sample without an object: "Keep", or "Redraw", from a random image, as mmdet does.
    """

    def __init__(
        self,
        records: list[Sample],
        mapper: Callable[[Sample], Sample],
        sampler: Sampler[int],
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        empty: str = "Keep",
    ) -> None:
        self.samples = _SeededSamples(records, mapper, seed, empty)
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
            # Without a generator of its own, a DataLoader draws from torch's global one each time it starts. A resumed
            # run would then draw other dropout.
            generator=Generator(),
        )


class _Positions(Sampler[tuple[int, int]]):
    """(position in the stream, index of the record), without the first positions."""

    def __init__(self, sampler: Sampler[int], skipped: int) -> None:
        self.sampler, self.skipped = sampler, skipped

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return islice(zip(count(), self.sampler), self.skipped, None)


class _SeededSamples(Dataset[Sample]):
    def __init__(self, records: list[Sample], mapper: Callable[[Sample], Sample], seed: int, empty: str) -> None:
        require("INPUT.EMPTY_SAMPLES", empty, ("Keep", "Redraw"))
        self.records, self.mapper, self.seed = DatasetFromList(records), mapper, seed
        self.draws = MOST_DRAWS if empty == "Redraw" else 1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        position, index = key
        with _numpy_seed(self.seed, comm.get_rank(), position):
            return self._draw(index)

    def _draw(self, index: int) -> Sample:
        """A sample of this image or, while it shows no object, of random others; the last draw is taken in any case."""
        sample = self.mapper(self.records[index])
        for _ in range(self.draws - 1):
            if len(sample["instances"]):
                break
            sample = self.mapper(self.records[np.random.randint(len(self.records))])
        return sample


@contextmanager
def _numpy_seed(*seed: int) -> Iterator[None]:
    """Detectron2's augmentations draw from NumPy's global generator; it is put back as it was."""
    state = np.random.get_state()
    np.random.seed(np.random.SeedSequence([abs(part) for part in seed]).generate_state(4))
    try:
        yield
    finally:
        np.random.set_state(state)


def train_records(names: list[str], filter_empty: bool = True) -> list[Sample]:
    """The records of data sets; `filter_empty` drops those without a box. Raises ValueError where none has a box."""
    records = [record for name in names for record in DatasetCatalog.get(name)]
    _warn_of_crowds(records, names)
    if filter_empty:
        records = filter_images_with_only_crowd_annotations(records)
    if all(annotation.get("iscrowd", 0) for record in records for annotation in record["annotations"]):
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f"No image of {known} (DATASETS.TRAIN) has a box: there is nothing to train on.")
    return records


def _warn_of_crowds(records: list[Sample], names: list[str]) -> None:
    """Warn of crowds, which are not trained on: some tools write all masks as crowds, and then nothing is left."""
    flags = [annotation.get("iscrowd", 0) for record in records for annotation in record["annotations"]]
    if any(flags):
        logger.warning(
            "%d of %d annotations of %s are crowds (iscrowd 1), and are not trained on.",
            sum(map(bool, flags)), len(flags), ", ".join(names),
        )  # fmt: skip


def build_train_stream(
    cfg: CfgNode, records: list[Sample], mapper: Callable[[Sample], Sample], seed: int
) -> TrainStream:
    """A stream of annotated images with SOLVER.IMS_PER_BATCH of them in all workers together.

    Args:
        records: see `train_records`. What training does not read of them is taken out.
    """
    if cfg.MODEL.MASK_ON:
        check_masks(records, cfg.INPUT.MASK_FORMAT)
    else:  # polygons would take most of the memory of loader processes
        for annotation in chain.from_iterable(record["annotations"] for record in records):
            annotation.pop("segmentation", None)
    batch_size = batch_size_per_worker(cfg)
    repeats = repeats_of(cfg, records)
    logger.info(describe_epoch(cfg, len(records), float(repeats.sum())))
    repeated = cfg.DATALOADER.SAMPLER_TRAIN != "TrainingSampler"
    sampler: Sampler[int] = (
        RepeatFactorTrainingSampler(repeats, seed=seed) if repeated else TrainingSampler(len(records), seed=seed)
    )
    workers, empty = cfg.DATALOADER.NUM_WORKERS, cfg.INPUT.EMPTY_SAMPLES
    return TrainStream(records, mapper, sampler, batch_size, seed, workers, empty)


def batch_size_per_worker(cfg: CfgNode) -> int:
    """The share of SOLVER.IMS_PER_BATCH. Raises ValueError where the workers would not have equal shares."""
    world = comm.get_world_size()
    if cfg.SOLVER.IMS_PER_BATCH % world:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be divided among {world} workers evenly."
        )
    return cfg.SOLVER.IMS_PER_BATCH // world


def repeats_of(cfg: CfgNode, records: list[Sample]) -> Tensor:
    """(number of records) how often each comes in an epoch by DATALOADER.SAMPLER_TRAIN; a fraction is a chance.

    Those of images with rare categories are repeated, see Detectron2's sampler.
    """

    def factors() -> Tensor:
        threshold = cfg.DATALOADER.REPEAT_THRESHOLD
        return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold)

    kinds: dict[str, Callable[[], Tensor]] = {
        "TrainingSampler": lambda: torch.ones(len(records)),
        "RepeatFactorTrainingSampler": factors,
        "ClassBalancedTrainingSampler": lambda: factors().ceil(),
    }
    return choose(kinds, "DATALOADER.SAMPLER_TRAIN", cfg.DATALOADER.SAMPLER_TRAIN)()


def describe_epoch(cfg: CfgNode, num_images: int, num_samples: float) -> str:
    """How long an epoch is, and how many of them the schedule has."""
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / num_samples
    return (
        f"An epoch is {num_samples:.0f} samples of {num_images} images ({cfg.DATALOADER.SAMPLER_TRAIN}): "
        f"SOLVER.MAX_ITER {solver.MAX_ITER} with batches of {solver.IMS_PER_BATCH} is {epochs:.2f} epochs."
    )
