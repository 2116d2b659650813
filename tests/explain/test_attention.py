"""What readers say of attention is what the detector did: its outputs can be computed again from what was read."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from dk_detr.explain.attention import READERS, Call, HeatMap, Points, attention_of, looks, recorded
from dk_detr.layers.ops.reference import ms_deform_attn_reference
from dk_detr.modeling import ATTENTIONS
from dk_detr.modeling.attention import AttentionSizes
from dk_detr.modeling.attention.multi_head import split_heads
from tests.model_fixtures import configured_detector, tiny_input

CHOSEN = torch.tensor([5, 0, 11])
SIZE, SQUARE = (40, 48), 64  # of the image, and what it is padded to where a test says so


def calls_of(name: str, padded: bool) -> list[Call]:
    """What the attention at the image did in each decoder layer of a tiny detector."""
    detector = configured_detector(name)
    detector.padded_size = SQUARE if padded else 0
    attentions = [attention_of(layer) for layer in detector.decoder.layers]
    with torch.no_grad(), recorded(attentions) as calls:
        detector.detect([tiny_input(SIZE)])
    return [calls[attention] for attention in attentions]


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_deformable_attention_is_the_sum_of_the_points_that_were_read(padded: bool) -> None:
    for call in calls_of("dino_R50_4scale", padded):
        module, memory = call.module, call.arguments[-1]
        read = looks(call, CHOSEN)
        assert all(isinstance(look, Points) for look in read)
        places = torch.stack([look.xy for look in read])[None]
        if padded:  # the readers speak of the image, the module of the padded levels
            places = places * memory.valid_ratios[0, :, None]
        weights = torch.stack([look.weights for look in read])[None]
        value = module.value_proj(memory.tokens)
        if padded:
            value = value.masked_fill(memory.padding[..., None], 0.0)
        heads = value.unflatten(-1, (module.num_heads, -1))
        out = module.output_proj(ms_deform_attn_reference(heads, memory.shapes, places, weights))
        assert_close(out[0], call.output[0, CHOSEN], atol=1e-5, rtol=1e-5)
        assert_close(weights.sum((-2, -1)), torch.ones(1, len(CHOSEN), module.num_heads))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", ["detr_R50", "conditional_detr_R50", "dab_detr_R50"])
@torch.no_grad()
def test_dense_and_conditional_attention_is_the_sum_of_the_cells_of_the_map(name: str, padded: bool) -> None:
    for call in calls_of(name, padded):
        module, memory = call.module, call.arguments[-1]
        read = looks(call, CHOSEN)
        maps = torch.stack([look.weights for look in read])  # (N, H, h, w)
        assert all(isinstance(look, HeatMap) for look in read)
        assert tuple(maps.shape[-2:]) == ((5, 6) if padded else memory.shapes[0])  # no padding: stride 8
        tokens = memory.tokens if memory.padding is None else memory.tokens[:, ~memory.padding[0]]
        heads = split_heads(_value(module, tokens), module.num_heads)[0]  # (H, S, C/H)
        out = module.out_proj(torch.einsum("nhs,hsc->nhc", maps.flatten(2), heads).flatten(1))
        assert_close(out, call.output[0, CHOSEN], atol=1e-5, rtol=1e-5)


def _value(module: nn.Module, tokens: Tensor) -> Tensor:
    if isinstance(module, nn.MultiheadAttention):
        return nn.functional.linear(tokens, module.in_proj_weight.chunk(3)[2], module.in_proj_bias.chunk(3)[2])
    projected: Tensor = module.value(tokens)  # type: ignore[operator]
    return projected


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_what_adamixer_samples_is_found_at_the_points_that_were_read(padded: bool) -> None:
    for call in calls_of("adamixer_R50_1x", padded):
        module, memory = call.module, call.arguments[-1]
        read = looks(call, CHOSEN)
        sides = torch.tensor([(w, h) for h, w in memory.shapes]) * module.octaves.exp2()[:, None]  # (L, 2) in pixels
        pixels = torch.stack([look.xy for look in read]) * torch.tensor([SIZE[1], SIZE[0]])  # (N, G, L, P, 2)
        weights = torch.stack([look.weights for look in read])
        heads = memory.tokens.unflatten(-1, (module.groups, -1))
        for point in range(module.points):  # each is a query of its own, with one sample on each level
            at, weight = pixels[:, :, :, point] / sides, weights[:, :, :, point]
            seen = ms_deform_attn_reference(heads, memory.shapes, at[None, ..., None, :], weight[None, ..., None])
            expected = call.output[0, CHOSEN][:, :, point]  # (N, G, c)
            assert_close(seen[0].unflatten(-1, (module.groups, -1)), expected, atol=1e-5, rtol=1e-5)


def test_every_attention_that_a_config_can_name_has_a_reader() -> None:
    for name, kind in ATTENTIONS.items():
        builds = [build for build in (kind.memory, kind.first_memory) if build is not None]
        for build in builds:
            assert type(build(AttentionSizes(32, 4, 0.0, 2, 2, "auto"))) in READERS, name


def test_an_attention_without_a_reader_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"layer Sequential \(Linear\) has no attention .* known are DeformableCross"):
        attention_of(nn.Sequential(nn.Linear(2, 2)))


def test_no_hook_is_left_even_after_an_error() -> None:
    module = nn.Linear(2, 2)
    with pytest.raises(RuntimeError), recorded([module]) as calls:
        module(torch.zeros(1, 2))
        assert module in calls
        raise RuntimeError
    assert not module._forward_hooks
