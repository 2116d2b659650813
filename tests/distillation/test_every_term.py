"""What holds for every term: whom it teaches, what it does with too few regions, and what it refuses."""

import pytest
import torch

from dk_detr.distillation import embedding_l1_loss, relational_kd_loss, semantic_kd_loss
from tests.model_fixtures import random

TERMS = [semantic_kd_loss, relational_kd_loss, embedding_l1_loss]
every_term = pytest.mark.parametrize("loss", TERMS, ids=lambda loss: loss.__name__)


@every_term
def test_the_student_learns_and_the_teacher_does_not(loss) -> None:
    student, teacher = random(5, 8).requires_grad_(), random(5, 8, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert student.grad is not None and student.grad.any(dim=1).all()
    assert teacher.grad is None


@every_term
def test_too_few_regions_cost_nothing_and_stay_in_the_graph(loss) -> None:
    for n in (0, 1) if loss is relational_kd_loss else (0,):
        student = random(n, 8).requires_grad_()
        value = loss(student, random(n, 8, seed=1))
        assert value.shape == () and value.item() == 0
        value.backward()
        assert student.grad is not None and student.grad.shape == (n, 8) and not student.grad.any()


@every_term
def test_over_groups_it_is_the_mean_of_what_each_says_alone(loss) -> None:
    student, teacher = random(7, 8).requires_grad_(), random(7, 8, seed=1)
    group = torch.tensor([4, 4, 9, 9, 9, 2, 4])
    alone = [loss(student[group == name], teacher[group == name]) for name in (2, 4, 9)]
    value, wanted = loss(student, teacher, group=group), torch.stack(alone).mean()
    torch.testing.assert_close(value, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(x, student)[0] for x in (value, wanted)))


@every_term
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_near(loss, dtype: torch.dtype) -> None:
    student, teacher = 100 * random(20, 64), random(20, 64, seed=1)
    half = student.to(dtype).requires_grad_()
    value = loss(half, teacher.to(dtype))
    value.backward()
    torch.testing.assert_close(value, loss(student, teacher), rtol=0.02, atol=0.02)
    assert value.dtype == torch.float32 and torch.isfinite(half.grad).all()


@every_term
def test_autocast_does_not_round_similarities(loss) -> None:
    student, teacher = random(20, 64), random(20, 64, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(student, teacher)
    torch.testing.assert_close(value, loss(student, teacher))


@every_term
def test_a_student_of_zeros_is_finite_and_so_is_its_gradient(loss) -> None:
    student = torch.zeros(3, 8, requires_grad=True)
    value = loss(student, random(3, 8))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


@every_term
def test_a_broken_student_shows_in_the_loss(loss) -> None:
    student = random(3, 8)
    student[1, 1] = float("nan")
    assert loss(student, random(3, 8)).isnan()


@every_term
def test_the_order_of_the_regions_does_not_matter(loss) -> None:
    student, teacher, order = random(5, 8), random(5, 8, seed=1), [3, 0, 4, 1, 2]
    torch.testing.assert_close(loss(student[order], teacher[order]), loss(student, teacher))


@every_term
def test_shapes_that_differ_are_refused(loss) -> None:
    for student, teacher in ((random(3, 8), random(2, 8)), (random(3, 8), random(3, 4)), (random(8), random(8))):
        with pytest.raises(ValueError, match=r"one embedding a region each.*\(3?,? ?"):
            loss(student, teacher)
