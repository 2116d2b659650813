"""Terms by hand-computed numbers and in NumPy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from projects.BackboneDistillation.backbone_distillation.classifier import label_loss
from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.terms.dense_relations import relation_loss, relations
from projects.BackboneDistillation.backbone_distillation.terms.embeddings import Embeddings
from projects.BackboneDistillation.backbone_distillation.terms.global_local_logits import (
    GlobalLocalLogits,
    normalised_kl,
    standardised,
)
from projects.BackboneDistillation.backbone_distillation.terms.logits import soft_decisions, softened_kl
from tests.model_fixtures import random

OURS, THEIRS = random(5, 7), random(5, 7, seed=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def divergence(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    q, p = softmax(teacher), softmax(student)
    return (q * np.log(q / p)).sum(-1)


def test_logits_in_numpy() -> None:
    wanted = 16 * divergence(THEIRS.numpy() / 4, OURS.numpy() / 4).mean()
    assert softened_kl(OURS, THEIRS, 4.0).item() == pytest.approx(wanted, rel=1e-4)


def test_a_shift_of_all_logits_is_no_difference() -> None:
    assert softened_kl(THEIRS + 3, THEIRS, 4.0).abs() < 1e-5
    assert normalised_kl(2 * THEIRS + 3, THEIRS).abs().max() < 1e-5


def test_decisions_by_hand() -> None:
    student, teacher = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 0.0]])
    by_hand = np.log(2) + 0.5 * np.log1p(np.exp(-2)) + 0.5 * np.log1p(np.exp(2))
    assert soft_decisions(student, teacher).item() == pytest.approx(by_hand, rel=1e-5)


def test_standardised_logits_have_mean_0_and_deviation_1() -> None:
    rows = standardised(THEIRS)
    torch.testing.assert_close(rows.mean(-1), torch.zeros(5), atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.std(-1, unbiased=False), torch.ones(5))
    assert standardised(torch.ones(2, 3)).abs().max() == 0


def test_equal_logits_have_finite_gradients() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    normalised_kl(rows, THEIRS[:2, :3]).sum().backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


def seen(rows: torch.Tensor) -> Seen:
    """(B, 1 + L, K): whole crop, then cells."""
    return Seen(rows[:, 0], rows[:, 0], lambda cells: rows[:, 1:])


def test_cells_are_summed_and_crops_averaged() -> None:
    ours, theirs = random(3, 5, 6), random(3, 5, 6, seed=2)
    losses = GlobalLocalLogits(0.7, 2.0, 2)(seen(ours), seen(theirs))

    def of(cell: int) -> float:
        a, b = (standardised(rows[:, cell]).numpy() for rows in (theirs, ours))
        return float(divergence(a, b).mean())

    assert losses["loss_kd_global_logits"].item() == pytest.approx(0.7 * of(0), rel=1e-4)
    assert losses["loss_kd_local_logits"].item() == pytest.approx(2 * sum(of(cell) for cell in range(1, 5)), rel=1e-4)


def test_relations_in_numpy() -> None:
    def plain(rows: np.ndarray) -> np.ndarray:
        distances = ((rows[:, None] - rows[None]) ** 2).sum(-1)
        return distances / np.sqrt((distances**2).sum(1, keepdims=True))

    wanted = ((plain(THEIRS.numpy()) - plain(OURS.numpy())) ** 2).sum() / 25
    assert relation_loss(OURS, THEIRS).item() == pytest.approx(wanted, rel=1e-4)


def test_relations_know_no_shift_rotation_or_scale() -> None:
    turn, _ = torch.linalg.qr(random(7, 7, seed=3))
    torch.testing.assert_close(relations(3 * THEIRS @ turn + 2), relations(THEIRS), atol=1e-4, rtol=1e-3)
    assert relations(torch.zeros(3, 2)).abs().max() == 0  # and no division by it


def test_relations_have_finite_gradients_where_rows_are_equal() -> None:
    rows = torch.ones(4, 3, requires_grad=True)
    relation_loss(rows, random(4, 3)).backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


def test_embeddings_are_compared_as_they_are() -> None:
    loss = Embeddings(2.0)(Seen(OURS, OURS, None), Seen(THEIRS, THEIRS, None))["loss_kd_embeddings"]
    assert loss.item() == pytest.approx(2 * ((OURS - THEIRS) ** 2).mean().item(), rel=1e-5)


def test_no_gradient_reaches_the_teacher() -> None:
    theirs = THEIRS.clone().requires_grad_()
    ours = OURS.clone().requires_grad_()
    total = softened_kl(ours, theirs, 2.0) + normalised_kl(ours, theirs).sum() + relation_loss(ours, theirs)
    (total + soft_decisions(ours, theirs)).backward()
    assert theirs.grad is None and ours.grad is not None


def test_labels_by_hand() -> None:
    labels = torch.tensor([0, 1, 2, 3, 4])
    torch.testing.assert_close(label_loss(OURS, labels, "softmax"), F.cross_entropy(OURS, labels))
    chances = 1 / (1 + np.exp(-OURS.numpy().astype(float)))
    wanted = np.where(np.eye(7)[:5] > 0, -np.log(chances), -np.log(1 - chances)).sum(-1).mean()
    assert label_loss(OURS, labels, "sigmoid").item() == pytest.approx(wanted, rel=1e-4)
