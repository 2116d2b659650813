"""Normaliser: what detection losses are divided by, the objects of the whole batch.

The whole batch is that of all workers, and of all parts where it goes through the detector in several.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from detectron2.utils import comm
from torch import Tensor

from dk_detr.structures import Targets

_COUNTED: ContextVar["float | Tensor | None"] = ContextVar("objects that the batch is known to have", default=None)


@contextmanager
def batch_in_parts(num_objects: int, num_parts: int, device: torch.device) -> Iterator[None]:
    """Within the block the criterion sees, one after the other, `num_parts` parts of a batch.

    The mean of the losses of the parts is then the loss of the batch, however unequal the parts.

    Args:
        num_objects: of the whole batch on this worker. device: where workers meet.
    """
    with _counted(_of_a_worker(num_objects, device) / num_parts):
        yield


@contextmanager
def counted_once(targets: Targets, device: torch.device) -> Iterator[None]:
    """Within the block all losses are divided by one count, for which workers meet once, whatever losses each has."""
    with _counted(number_of_objects(targets, device)):
        yield


@contextmanager
def _counted(number: float | Tensor) -> Iterator[None]:
    before = _COUNTED.set(number)
    try:
        yield
    finally:
        _COUNTED.reset(before)


def number_of_objects(targets: Targets, device: torch.device) -> float | Tensor:
    """Objects a worker, averaged over workers, at least 1: a crowded image must not outweigh ten empty ones.

    Between several workers a scalar on `device`: nobody waits for it.
    """
    counted = _COUNTED.get()
    return _of_a_worker(sum(targets.counts), device) if counted is None else counted


def _of_a_worker(num_objects: int, device: torch.device) -> float | Tensor:
    if comm.get_world_size() == 1:
        return max(float(num_objects), 1.0)
    total = torch.full((), float(num_objects), device=device)
    torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1.0)
