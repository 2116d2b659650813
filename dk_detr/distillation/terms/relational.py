"""Relational distillation (RKD): the student's regions should resemble one another as the teacher's do."""

from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation.terms.similarity import full_precision, unit_pair, zero_with_gradient

DIRECTIONS = ("teacher_student", "student_teacher")


def relational_kd_loss(
    student: Tensor, teacher: Tensor, temperature: float = 0.1, direction: str = "teacher_student"
) -> Tensor:
    """KL divergence between the row-wise softmax of both cosine matrices over `temperature`, self-similarity included.

    Args:
        student (N, E): need not be unit. teacher (N, E): no gradient reaches it.
        direction: "teacher_student" for KL(teacher ‖ student), "student_teacher" for the reverse.

    Returns: scalar, mean over rows; 0 with a gradient when N < 2. Finite for half inputs.
    Raises: ValueError if the shapes differ or the direction is unknown.
    Source: DK-DETR (ICCV 2023), eq. 5. The printed sign would drive the two apart; we minimise the divergence.
    """
    if direction not in DIRECTIONS:
        raise ValueError(f'Unknown direction "{direction}" of relational distillation; choose from {DIRECTIONS}.')
    ours, theirs = unit_pair(student, teacher)
    if len(ours) < 2:
        return zero_with_gradient(student)
    with full_precision(ours.device):
        log_student = F.log_softmax(ours @ ours.T / temperature, dim=1)
        log_teacher = F.log_softmax(theirs @ theirs.T / temperature, dim=1)
    pair = (log_student, log_teacher) if direction == "teacher_student" else (log_teacher, log_student)
    return F.kl_div(*pair, reduction="batchmean", log_target=True)
