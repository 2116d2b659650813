"""Learned queries: the same for every image, looking from a point that is learned with them."""

from dataclasses import replace

import pytest
import torch

from dk_detr.modeling import Learned
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import CHANNELS, fixed_seed, random, stir


def memory(images: int = 2, seed: int = 0) -> Memory:
    return Memory.from_pyramid(FeaturePyramid((random(images, CHANNELS, 3, 4, seed=seed),)))


def learned(num_queries: int = 10) -> Learned:
    with fixed_seed():
        return Learned(CHANNELS, num_queries)


def test_every_image_gets_the_same_queries_whatever_it_shows() -> None:
    queries = stir(learned())
    group, other = queries(memory()).group, queries(memory(images=1, seed=5)).group
    for mine, theirs in ((group.content, other.content), (group.position, other.position)):
        assert mine.shape == (2, 10, CHANNELS)
        assert torch.equal(mine[0], mine[1]) and torch.equal(mine[:1], theirs)
    assert torch.equal(group.content[0], queries.content.weight)
    assert torch.equal(group.position[0], queries.position.weight)


def test_a_query_looks_from_a_point_that_follows_from_its_position() -> None:
    queries = stir(learned())
    group = queries(memory()).group
    assert group.reference.shape == (2, 10, 2)
    wanted = (queries.position.weight @ queries.reference.weight.T + queries.reference.bias).sigmoid()
    torch.testing.assert_close(group.reference[1], wanted)
    queries.position.weight.data[3] *= -2
    moved = (queries(memory()).group.reference != group.reference).any(-1)
    assert moved.tolist() == [[n == 3 for n in range(10)]] * 2


def test_new_queries_are_normal_and_look_from_all_over_the_image() -> None:
    """Xavier's uniform weights have a variance of 2 / (C + 2), so that the logits have one of 2 C / (C + 2)."""
    with fixed_seed():
        queries = Learned(256, 3000)
    for values in (queries.content.weight.detach(), queries.position.weight.detach()):
        assert abs(float(values.mean())) < 0.01 and abs(float(values.std()) - 1) < 0.01
    assert not queries.reference.bias.any()
    assert float(queries.reference.weight.detach().abs().max()) <= (6 / 258) ** 0.5
    spread = queries.points_of(queries.position.weight).detach().logit().std(0)
    torch.testing.assert_close(spread, torch.full((2,), (2 * 256 / 258) ** 0.5), atol=0.15, rtol=0)


def test_points_learn_and_nothing_is_proposed() -> None:
    stage = learned()(memory())
    assert (stage.predictions, stage.objectness, stage.group.valid) == (None, None, None)
    assert stage.group.reference.requires_grad
    group = stage.group
    assert group.name == group.reference_from == "detection" and group.attends_to == ("detection",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_content_is_half_and_points_are_not(dtype: torch.dtype) -> None:
    queries = stir(learned())
    half = replace(memory(), tokens=memory().tokens.to(dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        group = queries(half).group
    assert group.content.dtype == group.position.dtype == dtype
    assert torch.equal(group.reference[0], queries.points_of(queries.position.weight))
