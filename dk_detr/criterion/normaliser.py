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

_OF_A_PART: ContextVar["float | Tensor | None"] = ContextVar("objects of a part of the batch", default=None)


@contextmanager
def batch_in_parts(num_objects: int, num_parts: int, device: torch.device) -> Iterator[None]:
    """Within the block the criterion sees, one after the other, `num_parts` parts of a batch.

    The mean of the losses of the parts is then the loss of the batch, however unequal the parts.

    Args:
        num_objects: of the whole batch on this worker. device: where workers meet.
    """
    before = _OF_A_PART.set(_of_a_worker(num_objects, device) / num_parts)
    try:
        yield
    finally:
        _OF_A_PART.reset(before)


def number_of_objects(targets: Targets, device: torch.device) -> float | Tensor:
    """Objects a worker, averaged over workers, at least 1: a crowded image must not outweigh ten empty ones.

    Between several workers a scalar on `device`: nobody waits for it.
    """
    of_a_part = _OF_A_PART.get()
    return _of_a_worker(sum(targets.counts), device) if of_a_part is None else of_a_part


def _of_a_worker(num_objects: int, device: torch.device) -> float | Tensor:
    if comm.get_world_size() == 1:
        return max(float(num_objects), 1.0)
    total = torch.full((), float(num_objects), device=device)
    torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1.0)
