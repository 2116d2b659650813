"""RKD: the student's regions resemble one another as the teacher's do. Worked out from eq. 5. N regions, E width."""

import math

import pytest
import torch
from torch.nn import functional as F

from dk_detr.distillation import relational_kd_loss
from tests.model_fixtures import random

DIRECTIONS = ("teacher_student", "student_teacher")


def two_regions(cosine: float) -> torch.Tensor:
    """Two unit rows with this cosine."""
    return torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]])


def kl_of_rows(p_cosine: float, q_cosine: float, temperature: float) -> float:
    """KL(p ‖ q) where both are the softmax of (1, cosine) over the temperature."""
    p = 1 / (1 + math.exp((p_cosine - 1) / temperature))
    q = 1 / (1 + math.exp((q_cosine - 1) / temperature))
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_two_regions_by_hand_in_both_directions(temperature: float) -> None:
    student, teacher = two_regions(0.2), two_regions(0.9)
    forward = relational_kd_loss(student, teacher, temperature, "teacher_student").item()
    backward = relational_kd_loss(student, teacher, temperature, "student_teacher").item()
    assert forward == pytest.approx(kl_of_rows(0.9, 0.2, temperature), rel=1e-3)
    assert backward == pytest.approx(kl_of_rows(0.2, 0.9, temperature), rel=1e-3)
    assert abs(forward - backward) > 1e-3


def test_the_first_direction_is_the_default() -> None:
    student, teacher = random(5, 8), random(5, 8, seed=1)
    assert relational_kd_loss(student, teacher) == relational_kd_loss(student, teacher, 0.1, "teacher_student")


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_it_is_zero_where_the_similarities_agree_and_positive_where_not(direction: str) -> None:
    teacher = random(6, 8)
    assert relational_kd_loss(teacher, teacher, direction=direction).abs() < 1e-6
    for seed in range(1, 6):
        assert relational_kd_loss(random(6, 8, seed=seed), teacher, direction=direction) > 1e-3


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_relational_loss_ignores_a_common_rotation(direction: str) -> None:
    student, teacher, rotation = random(6, 8, seed=1), random(6, 8), torch.linalg.qr(random(8, 8, seed=2)).Q
    plain = relational_kd_loss(student, teacher, direction=direction)
    torch.testing.assert_close(relational_kd_loss(student @ rotation, teacher, direction=direction), plain)
    assert relational_kd_loss(teacher @ rotation, teacher, direction=direction).abs() < 1e-5


def test_it_ignores_the_lengths_of_the_rows() -> None:
    student, teacher = random(6, 8, seed=1), random(6, 8)
    lengths = torch.linspace(0.1, 9, 6)[:, None]
    torch.testing.assert_close(relational_kd_loss(student * lengths, teacher), relational_kd_loss(student, teacher))
    torch.testing.assert_close(relational_kd_loss(student, teacher * lengths), relational_kd_loss(student, teacher))


def test_it_is_a_mean_over_rows() -> None:
    """Twice the same two groups, each far from the other, cost what one costs."""
    student, teacher = random(3, 4, seed=1), random(3, 4)
    rows = [
        F.kl_div(
            F.log_softmax(F.normalize(student, dim=1) @ F.normalize(student, dim=1)[i] / 0.1, dim=0),
            F.softmax(F.normalize(teacher, dim=1) @ F.normalize(teacher, dim=1)[i] / 0.1, dim=0),
            reduction="sum",
        )
        for i in range(3)
    ]
    torch.testing.assert_close(relational_kd_loss(student, teacher), torch.stack(rows).mean())


def test_following_its_gradient_brings_the_two_together() -> None:
    student, teacher = random(6, 8, seed=1).requires_grad_(), random(6, 8)
    start = relational_kd_loss(student, teacher)
    for _ in range(20):
        (grad,) = torch.autograd.grad(relational_kd_loss(student, teacher), student)
        student = (student - 0.5 * grad).detach().requires_grad_()
    assert relational_kd_loss(student, teacher) < 0.7 * start


def test_one_region_has_no_relations() -> None:
    assert relational_kd_loss(random(1, 8), random(1, 8, seed=1)) == 0


def test_an_unknown_direction_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='"sideways".*teacher_student'):
        relational_kd_loss(random(3, 8), random(3, 8), direction="sideways")
