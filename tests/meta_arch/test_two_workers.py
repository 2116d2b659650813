"""Two workers train as one with the whole batch: the same gradients, however unequal their images."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.model_fixtures import tiny_detector, tiny_distillation, tiny_input, training_losses

SHARES = [(2, 2), (3, 0), (1, 4)]


def learn(counts: list[int], seeds: list[int]) -> dict[str, Tensor]:
    """Gradients of a step on images of one size with so many objects."""
    detector = tiny_detector(tiny_distillation())
    inputs = [tiny_input(num_objects=count, seed=seed) for count, seed in zip(counts, seeds)]
    sum(training_losses(detector, inputs).values()).backward()
    return {name: parameter.grad for name, parameter in detector.named_parameters()}


def learn_in_a_worker(rank: int, counts: list[int]) -> dict[str, Tensor]:
    return learn(counts[rank : rank + 1], [rank + 1])


@pytest.mark.parametrize("counts", SHARES, ids=str)
def test_the_average_over_workers_is_the_gradient_of_the_whole_batch(in_two_workers: Callable, counts) -> None:
    wanted = learn(list(counts), [1, 2])
    first, second = in_two_workers(learn_in_a_worker, list(counts))
    for name, grad in wanted.items():
        mean = (first[name] + second[name]) / 2
        torch.testing.assert_close(mean, grad, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert any((first[name] - second[name]).abs().max() > 1e-2 for name in wanted)
