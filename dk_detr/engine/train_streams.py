"""Training streams: what each value of DATALOADER.TRAIN_STREAM feeds to a training step.

A package of PROJECTS adds its own when it is imported: `TRAIN_STREAMS["Captions"] = build_caption_stream`. It may be a
`TrainStream` of dk_detr.data with other records and another mapper.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from detectron2.config import CfgNode

from dk_detr.data import (
    TrainMapper,
    TrainStream,
    build_train_stream,
    categories_of,
    labels_among,
    require_images,
    train_records,
)
from dk_detr.data.present import CHECK_IMAGES
from dk_detr.engine.embedding_bank import bank_of_training


class Stream(Protocol):
    """An endless stream of batches, each a list of the samples that the model takes.

    Attributes:
        start_iteration: set before the first batch is asked for. A run that goes on sets it to the iterations that it
            has done, and expects the batches that would have come next.
    """

    start_iteration: int

    def __iter__(self) -> Iterator[list[dict[str, Any]]]: ...


def build_detection_stream(cfg: CfgNode, model: Any, seed: int) -> TrainStream:
    """Samples of DATASETS.TRAIN, labelled among the model's words of training, with regions if a bank teaches.

    Raises: see `records_and_labels`.
    """
    records, labels = records_and_labels(cfg, model)
    bank = bank_of_training(cfg, records, model.train_vocabulary)
    return build_train_stream(cfg, records, TrainMapper(cfg, labels, bank), seed)


def records_and_labels(cfg: CfgNode, model: Any) -> tuple[list[dict[str, Any]], list[int]]:
    """The records of DATASETS.TRAIN, and for each of their classes its index among the model's words of training, -1
    for a novel one.

    Raises: ValueError for data sets that there are not, that have no boxes, or whose categories are not the model's;
        FileNotFoundError.
    """
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty: there is nothing to train on.")
    first, *others = cfg.DATASETS.TRAIN
    names = [category["name"] for category in categories_of(first)]
    for other in others:
        if [category["name"] for category in categories_of(other)] != names:
            raise ValueError(f'DATASETS.TRAIN: "{other}" has other categories than "{first}".')
    labels = labels_among(names, model.train_vocabulary.names, model.vocabulary.novel_names, first)
    records = train_records(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    require_images(records, ", ".join(cfg.DATASETS.TRAIN), CHECK_IMAGES)
    return records, labels


TRAIN_STREAMS: dict[str, Callable[[CfgNode, Any, int], Stream]] = {"Detection": build_detection_stream}
"""Name -> builder of a stream from the config, the model (not yet in DDP) and the seed of the run."""
