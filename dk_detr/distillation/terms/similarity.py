"""What all terms share: checked pairs and cosine matrices in full precision."""

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


def zero_with_gradient(student: Tensor) -> Tensor:
    """0, still in the graph, so that workers with nothing to learn take part in the reduction of gradients."""
    return student.float().nan_to_num().sum() * 0


def full_precision(device: torch.device) -> torch.autocast:
    """A context without autocast: similarities over small temperatures need float32."""
    return torch.autocast(device.type, enabled=False)
