"""Interpolation between start and now: by hand, in a model, in a checkpoint, and what cannot be interpolated."""

import pytest
import torch
from torch import nn

from dk_detr.engine.keep import Interpolation, interpolate, interpolated


def test_an_interpolation_counted_by_hand() -> None:
    start = {"w": torch.tensor([0.0, 8.0]), "n": torch.tensor(3)}
    between = interpolate(start, {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(5)}, 0.25)
    assert between["w"].tolist() == [1.0, 6.0] and between["n"].item() == 5


def test_its_ends_are_start_and_tuned() -> None:
    start, tuned = {"w": torch.randn(9)}, {"w": torch.randn(9)}
    assert torch.equal(interpolate(start, tuned, 0.0)["w"], start["w"])
    assert torch.equal(interpolate(start, tuned, 1.0)["w"], tuned["w"])


def test_weights_of_two_detectors_are_refused_by_name() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    with pytest.raises(ValueError, match="b is in the tuned weights only"):
        interpolate({"a": one}, {"a": one, "b": one}, 0.5)
    with pytest.raises(ValueError, match="b is in those of the start only"):
        interpolate({"a": one, "b": one}, {"a": one}, 0.5)
    with pytest.raises(ValueError, match=r"a has two shapes, \(1,\) at the start, \(2,\) tuned"):
        interpolate({"a": one}, {"a": two}, 0.5)


def moved(start: float, now: float, alpha: float) -> tuple[nn.Module, Interpolation]:
    """A batch norm whose scale and statistics went from one number to another."""
    model = nn.BatchNorm1d(1)
    values = [model.weight.data, model.running_mean]
    for value in values:
        value.fill_(start)  # type: ignore[union-attr]
    between = Interpolation(model, alpha)
    between.begin()
    for value in values:
        value.fill_(now)  # type: ignore[union-attr]
    return model, between


def test_the_model_has_the_weights_between_for_as_long_as_asked_statistics_too() -> None:
    model, between = moved(1.0, 3.0, 0.5)
    parameter = model.weight
    with pytest.raises(RuntimeError), between.in_the_model():
        assert (model.weight.item(), model.running_mean.item()) == (2.0, 2.0)
        raise RuntimeError
    assert (model.weight.item(), model.running_mean.item()) == (3.0, 3.0)
    assert model.weight is parameter, "the optimizer would step another"


def test_a_checkpoint_gives_the_weights_between() -> None:
    model, between = moved(1.0, 3.0, 0.5)
    found = interpolated({"model": model.state_dict(), "interpolation": between.state_dict()})
    assert found is not None and found["weight"].item() == 2.0
    assert interpolated({"model": model.state_dict()}) is None


def test_what_only_training_has_is_left_out() -> None:
    model = nn.Module()
    model.extensions, model.head = nn.Linear(1, 1), nn.Linear(1, 1)
    between = Interpolation(model, 0.5)
    between.begin()
    assert set(between.start) == {"head.weight", "head.bias"}
