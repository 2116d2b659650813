"""SKD: each region is recognised by its own crop and by no other. Values worked out from eq. 4. N regions, E width."""

import math

import pytest
import torch
from torch.nn import functional as F

from dk_detr.distillation import semantic_kd_loss
from tests.model_fixtures import random

LN2 = math.log(2)


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_a_student_equal_to_orthonormal_teachers(temperature: float) -> None:
    teacher = torch.linalg.qr(random(8, 8)).Q[:5]
    wanted = (5 * softplus(-1 / temperature) + 5 * 4 * LN2) / 5
    assert semantic_kd_loss(teacher, teacher, temperature).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("n", [1, 4, 20])
def test_a_student_at_right_angles_to_all_teachers_costs_n_times_ln_2(n: int) -> None:
    student, teacher = torch.eye(2 * n)[:n], torch.eye(2 * n)[n:]
    assert semantic_kd_loss(student, teacher).item() == pytest.approx(n * LN2, rel=1e-5)


def test_a_student_along_its_own_teacher_and_against_the_other_costs_nothing() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert semantic_kd_loss(opposite, opposite).item() < 1e-6
    assert semantic_kd_loss(-opposite, opposite).item() == pytest.approx(40, rel=1e-5)  # four pairs of 20, over N


def test_it_is_the_printed_sum() -> None:
    student, teacher = random(3, 4, seed=1), random(3, 4, seed=2)
    p = (F.normalize(student, dim=1) @ F.normalize(teacher, dim=1).T / 0.5).sigmoid()
    own, others = p.diag().log().sum(), (1 - p).log().sum() - (1 - p).diag().log().sum()
    torch.testing.assert_close(semantic_kd_loss(student, teacher, 0.5), -(own + others) / 3)


def test_a_common_rotation_of_the_student_matters() -> None:
    teacher = F.normalize(random(5, 8), dim=1)
    rotation = torch.linalg.qr(random(8, 8, seed=1)).Q
    assert (semantic_kd_loss(teacher @ rotation, teacher) - semantic_kd_loss(teacher, teacher)).abs() > 0.1


def test_regions_are_paired_by_their_row() -> None:
    teacher = torch.linalg.qr(random(8, 8)).Q[:5]
    assert semantic_kd_loss(teacher.roll(1, 0), teacher) > semantic_kd_loss(teacher, teacher) + 1
    torch.testing.assert_close(
        semantic_kd_loss(teacher.roll(1, 0), teacher.roll(1, 0)), semantic_kd_loss(teacher, teacher)
    )
