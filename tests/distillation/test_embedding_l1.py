"""The plain L1 alternative, counted by hand. N regions, E width."""

import math

import pytest
import torch

from dk_detr.distillation import embedding_l1_loss
from tests.model_fixtures import random


def test_it_is_the_distance_of_unit_rows_summed_over_width_and_averaged_over_regions() -> None:
    student = torch.tensor([[5.0, 0.0], [0.0, 2.0], [3.0, 4.0]])
    teacher = torch.tensor([[1.0, 0.0], [0.0, -1.0], [8.0, 6.0]])
    assert embedding_l1_loss(student, teacher).item() == pytest.approx((0 + 2 + 0.2 + 0.2) / 3)


def test_it_lies_between_zero_and_twice_the_root_of_the_width() -> None:
    row = torch.ones(1, 64)
    assert embedding_l1_loss(row, 3 * row).item() == pytest.approx(0, abs=1e-5)
    assert embedding_l1_loss(-row, row).item() == pytest.approx(2 * math.sqrt(64), rel=1e-5)
    for seed in range(5):
        assert 0 < embedding_l1_loss(random(3, 64, seed=seed), random(3, 64, seed=seed + 9)).item() < 16
