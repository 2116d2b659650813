"""Relational distillation (RKD): the student's regions should resemble one another as the teacher's do."""

from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation.terms.similarity import apart, full_precision, share_of_each, unit_pair, zero_with_gradient

DIRECTIONS = ("teacher_student", "student_teacher")


def relational_kd_loss(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 0.1,
    direction: str = "teacher_student",
    group: Tensor | None = None,
) -> Tensor:
    """KL divergence between the row-wise softmax of both cosine matrices over `temperature`, self-similarity included.

    Args:
        student (N, E): need not be unit. teacher (N, E): no gradient reaches it.
        direction: "teacher_student" for KL(teacher ‖ student), "student_teacher" for the reverse.
        group: (N,) which regions are compared, such as their image; the mean over groups is returned. None for all.

    Returns: scalar, mean over rows; 0 with a gradient when N < 2. Finite for half inputs.
    Raises: ValueError if the shapes differ or the direction is unknown.
    Source: DK-DETR (ICCV 2023), eq. 5. The printed sign would drive the two apart; we minimise the divergence.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f'Unknown direction "{direction}" of relational distillation; choose from {DIRECTIONS}.')
    ours, theirs = unit_pair(student, teacher)
    if len(ours) < 2:
        return zero_with_gradient(student)
    log_student, log_teacher = (log_relations(rows, temperature, group) for rows in (ours, theirs))
    pair = (log_student, log_teacher) if direction == "teacher_student" else (log_teacher, log_student)
    divergence = F.kl_div(*pair, reduction="none", log_target=True).sum(1)
    return (divergence * share_of_each(group, divergence)).sum()


def log_relations(rows: Tensor, temperature: float, group: Tensor | None = None) -> Tensor:
    """(N, E) unit rows -> (N, N), the logarithm of how much each region resembles each of its group: of a softmax over
    the columns. Others: see `relational_kd_loss`."""
    with full_precision(rows.device):
        similarity = rows @ rows.T / temperature
        # So far below the rest that nothing of the probability is left, and finite: 0 · (-inf + inf) is no number.
        others = apart(group)
        return F.log_softmax(similarity if others is None else similarity.masked_fill(others, -1e4), dim=1)
