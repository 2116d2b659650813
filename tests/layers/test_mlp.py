"""The MLP and the box head that starts by changing nothing."""

import pytest
import torch

from dk_detr.layers import MLP, box_head


def test_relu_stands_between_the_layers_and_not_after_the_last() -> None:
    mlp = MLP(1, 1, 1, num_layers=2)
    for layer, weight in zip(mlp.layers, (1.0, -1.0)):
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.zeros_(layer.bias)
    assert mlp(torch.tensor([[2.0], [-2.0]])).flatten().tolist() == [-2.0, 0.0]


def test_widths_are_as_asked() -> None:
    widths = [(layer.in_features, layer.out_features) for layer in MLP(3, 5, 7, num_layers=3).layers]
    assert widths == [(3, 5), (5, 5), (5, 7)]
    assert len(MLP(3, 5, 7, num_layers=1).layers) == 1


def test_a_new_box_head_changes_no_box_but_can_learn_to() -> None:
    head = box_head(8)
    offsets = head(torch.randn(2, 8))
    assert offsets.shape == (2, 4) and not offsets.any()
    offsets.sum().backward()
    assert head.layers[-1].weight.grad is not None and head.layers[-1].weight.grad.any()


def test_in_a_transformer_weights_start_from_xaviers_distribution_and_in_heads_as_pytorchs_do() -> None:
    for init, spread in (("xavier", (1 / 256) ** 0.5), ("default", (1 / (3 * 256)) ** 0.5)):
        for layer in MLP(256, 256, 256, 2, init).layers:
            assert layer.weight.std().item() == pytest.approx(spread, rel=0.02)
