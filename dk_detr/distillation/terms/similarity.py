"""What all terms share: checked pairs, groups of regions, and cosine matrices in full precision. N regions."""

import torch
from torch import Tensor
from torch.nn import functional as F


def unit_pair(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both (N, E) as float32 unit rows, the teacher without gradient. Raises ValueError if the shapes differ."""
    if student.shape != teacher.shape or student.ndim != 2:
        raise ValueError(
            f"Student and teacher need one embedding a region each, both (N, E); got {tuple(student.shape)} "
            f"and {tuple(teacher.shape)}."
        )
    return F.normalize(student.float(), dim=1), F.normalize(teacher.detach().float(), dim=1)


def share_of_each(group: Tensor | None, rows: Tensor) -> Tensor:
    """(N,) weights that make a sum over rows the mean over groups of the means over their rows.

    Args:
        group: (N,) integers, or None for one group of all.
    """
    if group is None:
        return rows.new_full((len(rows),), 1 / max(len(rows), 1))
    _, index, count = group.unique(return_inverse=True, return_counts=True)
    return (1.0 / count / len(count))[index]


def apart(group: Tensor | None) -> Tensor | None:
    """(N, N) bool, True where two regions are of different groups; None where there is one group."""
    return None if group is None else group[:, None] != group


def zero_with_gradient(student: Tensor) -> Tensor:
    """0, still in the graph, so that workers with nothing to learn take part in the reduction of gradients."""
    return student.float().nan_to_num().sum() * 0


def full_precision(device: torch.device) -> torch.autocast:
    """A context without autocast: similarities over small temperatures need float32."""
    return torch.autocast(device.type, enabled=False)
