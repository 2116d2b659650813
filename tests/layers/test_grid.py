"""The grid of cells: places in order, made once, and never a trap for who comes after."""

import torch

from dk_detr.layers import grid_of_cells
from dk_detr.layers.cached import cached

CPU = torch.device("cpu")


def test_cells_come_level_by_level_row_by_row() -> None:
    grid = grid_of_cells(((2, 3), (1, 1)), CPU)
    first = [[0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [0.5, 1.5], [1.5, 1.5], [2.5, 1.5]]
    assert grid.centers[0].tolist() == [*first, [0.5, 0.5]]
    assert grid.level.tolist() == [0] * 6 + [1]
    assert grid.sides.tolist() == [[[3.0, 2.0], [1.0, 1.0]]]


def test_the_same_shapes_give_the_same_tensors() -> None:
    assert grid_of_cells(((4, 5),), CPU).centers is grid_of_cells(((4, 5),), CPU).centers
    assert grid_of_cells(((5, 4),), CPU).centers is not grid_of_cells(((4, 5),), CPU).centers


def test_what_was_first_made_in_inference_mode_can_train() -> None:
    @cached
    def one(size: int) -> torch.Tensor:
        return torch.ones(size)

    with torch.inference_mode():
        one(3)
    weight = torch.ones(3, requires_grad=True)
    (weight * one(3)).sum().backward()
    assert weight.grad is not None


def test_a_tracer_leaves_nothing_behind() -> None:
    made = []

    @cached
    def one(size: int) -> torch.Tensor:
        made.append(size)
        return torch.ones(size)

    class Adds(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + one(3)

    torch.export.export(Adds(), (torch.zeros(3),))
    assert type(one(3)) is torch.Tensor and one(3).tolist() == [1, 1, 1]
    assert made.count(3) >= 2
