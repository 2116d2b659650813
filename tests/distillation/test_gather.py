"""Rows of all workers: in two processes the averaged gradient is that of one process with the whole batch.

N regions, E width.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dk_detr.distillation import DistillationTerm, relational_kd_loss
from dk_detr.distillation.gather import gather_rows
from dk_detr.structures import RegionKnowledge, Regions
from tests.model_fixtures import WIDTH, fixed_seed, random

Split = tuple[int, int]
SPLITS = [(4, 4), (2, 5), (0, 3), (3, 0), (1, 0), (0, 0)]


def student_rows(model: nn.Module, own: slice) -> Tensor:
    """What a model says of its share of the batch."""
    return model(random(10, 6)[own])


def learn(own: slice) -> tuple[float, list[Tensor]]:
    """Loss over the batch of all workers, and the gradient of a model that saw `own` rows."""
    with fixed_seed():
        model = nn.Linear(6, WIDTH)
    term = DistillationTerm("relational_batch", relational_kd_loss, weight=2.0, scope="batch")
    rows, teacher = student_rows(model, own), random(10, WIDTH, seed=1)[own]
    regions = Regions(torch.zeros(len(rows), dtype=torch.long), torch.arange(len(rows)), torch.zeros(len(rows), 4))
    loss = term(rows, RegionKnowledge(regions, teacher))
    loss.backward()
    return loss.item(), [parameter.grad for parameter in model.parameters()]


def learn_in_a_worker(rank: int, split: Split) -> tuple[float, list[Tensor]]:
    return learn(slice(0, split[0]) if rank == 0 else slice(split[0], sum(split)))


def gather_in_a_worker(rank: int, split: Split) -> Tensor:
    return gather_rows(torch.full((split[rank], 2), float(rank)))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_the_average_over_workers_is_the_gradient_of_the_whole_batch(in_two_workers: Callable, split: Split) -> None:
    wanted_loss, wanted = learn(slice(0, sum(split)))
    (first_loss, first), (second_loss, second) = in_two_workers(learn_in_a_worker, split)
    assert first_loss == pytest.approx(wanted_loss, abs=1e-6) and second_loss == pytest.approx(wanted_loss, abs=1e-6)
    for mine, theirs, one in zip(first, second, wanted):
        torch.testing.assert_close((mine + theirs) / 2, one)
    assert any(grad.any() for grad in wanted) == (sum(split) > 1)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_both_workers_hold_all_rows_in_the_order_of_the_workers(in_two_workers: Callable, split: Split) -> None:
    wanted = torch.tensor([0.0] * split[0] + [1.0] * split[1])[:, None].expand(-1, 2)
    for gathered in in_two_workers(gather_in_a_worker, split):
        assert torch.equal(gathered, wanted)


def test_a_worker_alone_keeps_its_rows() -> None:
    rows = random(3, 2)
    assert gather_rows(rows) is rows
