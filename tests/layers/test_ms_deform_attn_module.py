"""`MSDeformAttn`: where it looks before it has learned anything, in which units, and that it never looks at padding."""

import pytest
import torch

from dk_detr.layers import MSDeformAttn
from dk_detr.layers.ops import ms_deform_attn
from tests.model_fixtures import random, stir

SHAPES = ((4, 6), (2, 3))


def attention() -> MSDeformAttn:
    return MSDeformAttn(channels=8, num_heads=4, num_levels=2, num_points=2)


def sampled(module: MSDeformAttn, reference: torch.Tensor, valid_ratios: torch.Tensor | None = None) -> torch.Tensor:
    """(H, L, P, 2) places that one query of one image looks at."""
    query = torch.zeros(1, 1, 8)
    offsets = module.sampling_offsets(query).unflatten(-1, (4, 2, 2, 2))
    return module._locations(reference.view(1, 1, -1), offsets, SHAPES, valid_ratios)[0, 0]


def test_heads_start_in_different_directions_one_cell_further_with_each_point() -> None:
    offsets = attention().sampling_offsets.bias.view(4, 2, 2, 2)
    right, down, left, up = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]
    for level in range(2):
        torch.testing.assert_close(offsets[:, level, 0], torch.tensor([right, down, left, up]))
        torch.testing.assert_close(offsets[:, level, 1], 2 * torch.tensor([right, down, left, up]))


def test_diagonal_heads_start_at_the_diagonal_neighbour() -> None:
    """Steps are counted in rings of cells, not along the slope: the p-th point of every head lies on the p-th ring."""
    offsets = MSDeformAttn(channels=8, num_heads=8, num_levels=1, num_points=2).sampling_offsets.bias.view(8, 2, 2)
    torch.testing.assert_close(offsets[1], torch.tensor([[1.0, 1.0], [2.0, 2.0]]))
    torch.testing.assert_close(offsets.abs().amax(-1), torch.tensor([[1.0, 2.0]] * 8))


def test_at_the_start_where_it_looks_does_not_depend_on_the_query_and_all_places_count_the_same() -> None:
    module = attention()
    query = random(1, 3, 8)
    assert torch.equal(module.sampling_offsets(query), module.sampling_offsets.bias.expand(1, 3, -1))
    assert module.attention_weights(query).abs().max() == 0


def test_around_a_point_offsets_are_cells_of_each_level() -> None:
    places = sampled(attention(), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(places[0, 0, 1], torch.tensor([0.5 + 2 / 6, 0.5]))
    torch.testing.assert_close(places[1, 1, 0], torch.tensor([0.5, 0.5 + 1 / 2]))


def test_around_a_box_the_last_point_of_a_straight_head_lies_on_its_edge() -> None:
    places = sampled(attention(), torch.tensor([0.5, 0.5, 0.2, 0.4]))
    torch.testing.assert_close(places[0, :, 1], torch.tensor([[0.6, 0.5]] * 2))
    torch.testing.assert_close(places[3, :, 1], torch.tensor([[0.5, 0.3]] * 2))
    torch.testing.assert_close(places[0, :, 0], torch.tensor([[0.55, 0.5]] * 2))


def test_references_are_relative_to_the_image_not_to_its_padding() -> None:
    ratios = torch.tensor([[[0.5, 1.0], [2 / 3, 1.0]]])
    point = sampled(attention(), torch.tensor([1.0, 0.5]), ratios)
    torch.testing.assert_close(point[0, :, 0, 0], torch.tensor([0.5 + 1 / 6, 2 / 3 + 1 / 3]))
    box = sampled(attention(), torch.tensor([1.0, 0.5, 0.2, 0.4]), ratios)
    torch.testing.assert_close(box[0, :, 1], torch.tensor([[0.55, 0.5], [2 / 3 * 1.1, 0.5]]))


def test_padding_has_no_influence_even_if_it_is_not_a_number() -> None:
    module = stir(attention())
    query, reference, tokens = random(1, 5, 8), torch.rand(1, 5, 4), random(1, 30, 8)
    padding = torch.zeros(1, 30, dtype=torch.bool)
    padding[0, 3::6] = True
    seen = module(query, reference, tokens, SHAPES, padding)
    for garbage in (1e3, float("nan")):
        torch.testing.assert_close(
            module(query, reference, tokens.masked_fill(padding[..., None], garbage), SHAPES, padding), seen
        )
    assert not torch.allclose(module(query, reference, tokens, SHAPES), seen)


def test_it_weighs_by_a_softmax_over_all_levels_and_points_of_a_head() -> None:
    module = stir(attention())
    torch.nn.init.zeros_(module.value_proj.weight)
    torch.nn.init.ones_(module.value_proj.bias)
    torch.nn.init.eye_(module.output_proj.weight)
    torch.nn.init.zeros_(module.output_proj.bias)
    torch.nn.init.zeros_(module.sampling_offsets.bias)
    torch.nn.init.zeros_(module.sampling_offsets.weight)
    out = module(random(1, 5, 8), torch.full((1, 5, 2), 0.5), random(1, 30, 8), SHAPES)
    torch.testing.assert_close(out, torch.ones(1, 5, 8))


def test_channels_must_divide_among_the_heads() -> None:
    with pytest.raises(ValueError, match="8 channels do not divide among 3 heads"):
        MSDeformAttn(8, 3, 1, 1)


def test_under_autocast_places_stay_in_full_precision_and_answers_near(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = stir(attention()), []
    query, reference, tokens = random(1, 5, 8), torch.rand(1, 5, 4), random(1, 30, 8)
    full = module(query, reference, tokens, SHAPES)
    monkeypatch.setattr(
        "dk_detr.layers.ms_deform_attn.ms_deform_attn", lambda *given: seen.append(given) or ms_deform_attn(*given)
    )
    with torch.autocast("cpu", torch.bfloat16):
        half = module(query, reference, tokens, SHAPES)
    value, _, locations, _, _ = seen[0]
    assert (value.dtype, locations.dtype, half.dtype) == (torch.bfloat16, torch.float32, torch.bfloat16)
    assert (half.float() - full).abs().max() < 0.05 * full.abs().max()
