"""Plain embedding distillation, as in ViLD: the student's embedding should be the teacher's."""

from torch import Tensor

from dk_detr.distillation.terms.similarity import share_of_each, unit_pair, zero_with_gradient


def embedding_l1_loss(student: Tensor, teacher: Tensor, group: Tensor | None = None) -> Tensor:
    """L1 distance of unit rows.

    Args:
        student (N, E): need not be unit. teacher (N, E): no gradient reaches it.
        group: (N,) such as the image; the mean over groups is returned. None for the mean over all.

    Returns: scalar in [0, 2√E], summed over E, mean over N; 0 with a gradient when N is 0. Finite for half inputs.
    Raises: ValueError if the shapes differ. Source: ViLD (ICLR 2022), eq. 4; DK-DETR (ICCV 2023), eq. 3.
    """
    ours, theirs = unit_pair(student, teacher)
    if len(ours) == 0:
        return zero_with_gradient(student)
    distance = (ours - theirs).abs().sum(1)
    return (distance * share_of_each(group, distance)).sum()
