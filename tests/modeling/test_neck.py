"""ChannelMapper: levels of one width, the extra ones made from the backbone's last map."""

import pytest
import torch
from detectron2.layers import ShapeSpec

from dk_detr.modeling import ChannelMapper
from tests.model_fixtures import random

SHAPES = {"res3": ShapeSpec(channels=6, stride=8), "res4": ShapeSpec(channels=10, stride=16)}
MAPS = {"res3": random(2, 6, 9, 14), "res4": random(2, 10, 5, 7, seed=1)}


def test_levels_have_one_width_and_halve_from_one_to_the_next() -> None:
    neck = ChannelMapper(SHAPES, ("res3", "res4"), 32, num_extra_levels=2)
    assert neck.num_levels == 4
    assert [tuple(level.shape) for level in neck(MAPS)] == [(2, 32, 9, 14), (2, 32, 5, 7), (2, 32, 3, 4), (2, 32, 2, 2)]


def test_only_the_named_maps_are_used() -> None:
    neck = ChannelMapper(SHAPES, ("res4",), 32, num_extra_levels=0)
    assert [tuple(level.shape) for level in neck(MAPS)] == [(2, 32, 5, 7)]


def test_each_level_is_made_from_the_map_of_its_name_in_the_order_of_the_names() -> None:
    shapes = {"a": ShapeSpec(channels=6, stride=8), "b": ShapeSpec(channels=6, stride=16)}
    maps = {"b": random(1, 6, 4, 4, seed=2), "a": random(1, 6, 4, 4, seed=3)}
    neck = ChannelMapper(shapes, ("a", "b"), 32, num_extra_levels=0)
    first, second = neck(maps)
    assert torch.equal(first, neck.mappers[0](maps["a"])) and torch.equal(second, neck.mappers[1](maps["b"]))
    assert not torch.allclose(first, second)


def test_the_first_extra_level_is_made_from_the_backbone_and_the_next_from_the_first() -> None:
    neck = ChannelMapper(SHAPES, ("res3", "res4"), 32, num_extra_levels=2)
    assert [layer[0].in_channels for layer in neck.extra] == [10, 32]
    levels = neck(MAPS)
    assert torch.equal(levels[2], neck.extra[0](MAPS["res4"])) and torch.equal(levels[3], neck.extra[1](levels[2]))


def test_levels_are_normalised_over_groups_of_channels() -> None:
    level = ChannelMapper(SHAPES, ("res3",), 64, num_extra_levels=0)(MAPS)[0].unflatten(1, (32, 2)).flatten(2)
    torch.testing.assert_close(level.mean(-1), torch.zeros(2, 32), atol=1e-5, rtol=0)
    torch.testing.assert_close(level.var(-1, unbiased=False), torch.ones(2, 32), atol=1e-3, rtol=0)


def test_a_map_that_the_backbone_does_not_give_is_named() -> None:
    with pytest.raises(ValueError, match=r"IN_FEATURES names \['res5'\].*\['res3', 'res4'\].*OUT_FEATURES"):
        ChannelMapper(SHAPES, ("res4", "res5"), 32, num_extra_levels=1)


def test_without_a_norm_weights_start_as_pytorchs_do_and_with_one_from_xaviers_distribution() -> None:
    """DETR, Conditional, DAB and DN-DETR leave them: tokens from Xavier's would be 2.3 times as large."""
    shapes = {"res5": ShapeSpec(channels=2048, stride=32)}
    spread = {norm: ChannelMapper(shapes, ["res5"], 256, 0, norm).mappers[0][0].weight.std().item() for norm in NORMS}
    assert spread["none"] == pytest.approx((1 / (3 * 2048)) ** 0.5, rel=0.01)
    assert spread["GN"] == pytest.approx((2 / (2048 + 256)) ** 0.5, rel=0.01)


NORMS = ("GN", "none")
