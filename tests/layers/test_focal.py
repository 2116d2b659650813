"""The focal loss against its formula, and far out where naive formulas overflow."""

import math

import pytest
import torch

from dk_detr.layers import sigmoid_focal_loss


@pytest.mark.parametrize("logit", [-2.0, 0.0, 1.5])
def test_it_is_the_formula(logit: float) -> None:
    p = 1 / (1 + math.exp(-logit))
    hit = sigmoid_focal_loss(torch.tensor([logit]), torch.tensor([1.0])).item()
    miss = sigmoid_focal_loss(torch.tensor([logit]), torch.tensor([0.0])).item()
    assert hit == pytest.approx(-0.25 * (1 - p) ** 2 * math.log(p), rel=1e-5)
    assert miss == pytest.approx(-0.75 * p**2 * math.log(1 - p), rel=1e-5)


def test_without_focus_and_balance_it_is_half_the_cross_entropy() -> None:
    logits, targets = torch.randn(4, 3), torch.randint(2, (4, 3)).float()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=0.5, gamma=0.0), plain / 2)


def test_it_is_finite_for_extreme_logits_and_so_is_its_gradient() -> None:
    logits = torch.tensor([-200.0, 200.0, -200.0, 200.0], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0.0, 1.0, 1.0, 0.0]))
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([0.0, 0.0, 50.0, 150.0]))
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
