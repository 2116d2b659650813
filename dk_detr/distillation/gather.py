"""All workers' rows in one matrix, with gradients that find their way back."""

from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    """Concatenate equally many rows of every worker.

    All workers compute the same loss of them, so that each knows the sum of what all say of its own rows: backward is
    no collective, which could meet one of DDP's that another worker has begun.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(comm.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        number = comm.get_world_size()
        return grad.chunk(number)[comm.get_rank()] * number


def gather_rows(rows: Tensor) -> Tensor:
    """(N, E) of this worker -> (ΣN, E) of all, in the order of the workers; the number of rows may differ.

    Every worker then computes the same loss; averaged over workers, as DDP does, its gradient is that of one process
    that holds the whole batch.
    """
    if comm.get_world_size() == 1:
        return rows
    counts = comm.all_gather(len(rows))
    padded = torch.cat([rows, rows.new_zeros(max(counts) - len(rows), rows.shape[1])])
    parts = _GatherRows.apply(padded).chunk(comm.get_world_size()) if max(counts) else [rows] * len(counts)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])
