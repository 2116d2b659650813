"""What detection losses are divided by: the objects of the whole batch."""

import torch
from detectron2.utils import comm
from torch import Tensor


def mean_num_objects(num_objects: int, device: torch.device) -> float | Tensor:
    """Objects of a worker, averaged over all workers, at least 1: a crowded image must not outweigh ten empty ones.

    A collective: every worker calls it once a step.

    Args:
        num_objects: of this worker's batch. device: where workers meet.

    Returns: between several workers a scalar on `device`, which the host does not wait for.
    """
    if comm.get_world_size() == 1:
        return max(float(num_objects), 1.0)
    total = torch.full((), float(num_objects), device=device)
    torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1.0)
