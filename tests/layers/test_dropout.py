"""`Dropout` is torch's: the same share of zeros, the same mean, the same gradients, and nothing in evaluation."""

import pytest
import torch

from dk_detr.layers import Dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_becomes_zero_and_the_mean_stays(p: float) -> None:
    torch.manual_seed(0)
    out = Dropout(p)(torch.ones(400, 501))
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=0.005)
    assert out.mean().item() == pytest.approx(1.0, abs=0.02)
    assert out.max().item() == pytest.approx(1 / (1 - p), rel=1e-4)


def test_every_place_has_its_own_chance() -> None:
    torch.manual_seed(0)
    layer, dropped = Dropout(0.5), torch.zeros(7)
    for _ in range(2000):
        dropped += layer(torch.ones(7)) == 0
    assert ((dropped / 2000 - 0.5).abs() < 0.05).all()
    pairs = torch.stack([layer(torch.ones(7)) == 0 for _ in range(2000)]).float()
    assert (torch.corrcoef(pairs.T) - torch.eye(7)).abs().max() < 0.1


def test_gradients_flow_where_it_kept_and_are_scaled_alike() -> None:
    x = torch.randn(50, 3, requires_grad=True)
    out = Dropout(0.3)(x)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)


def test_the_seed_decides() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        return Dropout(0.5)(torch.ones(9))

    assert torch.equal(draw(), draw())


def test_evaluation_and_probability_zero_change_nothing() -> None:
    x = torch.randn(4, 5)
    assert Dropout(0.5).eval()(x) is x and Dropout(0.0)(x) is x
    assert Dropout(1.0)(x).abs().max() == 0


def test_it_does_not_touch_what_it_is_given_and_keeps_its_dtype() -> None:
    x = torch.ones(6, 6, dtype=torch.bfloat16).T
    before = x.clone()
    assert Dropout(0.5)(x).dtype == torch.bfloat16
    assert torch.equal(x, before)


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_after_relu_is_dropout_of_relu_with_its_gradient(p: float) -> None:
    weight = torch.randn(40, 30, requires_grad=True)
    layer, results = Dropout(p), []
    for act in (lambda x: layer(x.relu()), layer.after_relu_):
        torch.manual_seed(0)
        out = act(weight * 2)
        (grad,) = torch.autograd.grad((out * torch.arange(30.0)).sum(), weight)
        results.append((out.detach(), grad))
    torch.testing.assert_close(results[0], results[1])
    assert torch.equal(Dropout(p).eval().after_relu_(weight * 2), (weight * 2).relu())
