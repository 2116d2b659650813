"""Semantic distillation (SKD): each region should be recognised by its own crop and by no other."""

import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation.terms.similarity import apart, full_precision, share_of_each, unit_pair, zero_with_gradient
from dk_detr.structures import Calibration


def semantic_kd_loss(
    student: Tensor, teacher: Tensor, temperature: float = 0.05, group: Tensor | None = None, offset: float = 0.0
) -> Tensor:
    """Binary cross-entropy between the sigmoid of (cosine - `offset`) / `temperature` of all pairs and the identity.

    Args:
        student (N, E): need not be unit. teacher (N, E): no gradient reaches it.
        offset: the cosine of probability 0.5. 0 is the paper's: it asks for angles of more than 90° with other crops,
            which CLIP's embeddings never have.
        group: (N,) which regions are compared, such as their image; the mean over groups is returned. None for all.

    Returns: scalar, summed over all N·N pairs, divided by N; 0 with a gradient when N is 0. Finite for half inputs.
    Raises: ValueError if the shapes differ. Source: DK-DETR (ICCV 2023), eq. 4.
    """
    ours, theirs = unit_pair(student, teacher)
    if len(ours) == 0:
        return zero_with_gradient(student)
    with full_precision(ours.device):
        logits = Calibration(temperature, offset).logits(ours @ theirs.T)
    own = torch.eye(len(ours), device=ours.device)
    losses = F.binary_cross_entropy_with_logits(logits, own, reduction="none")
    if (others := apart(group)) is not None:
        losses = losses.masked_fill(others, 0.0)
    return (losses.sum(1) * share_of_each(group, losses)).sum()
