"""`ms_deform_attn` by its definition: bilinear samples of each level, weighted and summed, head by head; each backend.

B images, Q queries, S tokens, H heads, D channels of a head, L levels, P points.
"""

import math

import pytest
import torch
from torch import Tensor

from dk_detr.layers import ops
from dk_detr.layers.ops import available_backends, default_backend, ms_deform_attn

SHAPES = ((4, 6), (2, 3))


@pytest.fixture(autouse=True, params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test holds for every backend of the CPU."""
    reason = ops._BACKENDS[request.param].unavailable()
    if reason:
        pytest.skip(reason)
    monkeypatch.setattr(ops, "default_backend", lambda device: request.param)
    return request.param


def one_sample(values: list[list[float]], x: float, y: float) -> float:
    """What one point of weight 1 sees of one level with one channel."""
    level = torch.tensor(values)
    location = torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2)
    return ms_deform_attn(level.reshape(1, -1, 1, 1), [tuple(level.shape)], location, torch.ones(1, 1, 1, 1, 1)).item()


def random_arguments(dtype=torch.float32, shapes=SHAPES, queries: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    b, heads, width, points = 2, 3, 4, 2
    value = torch.randn(b, sum(h * w for h, w in shapes), heads, width, generator=generator, dtype=dtype)
    locations = torch.rand(b, queries, heads, len(shapes), points, 2, generator=generator, dtype=dtype) * 1.2 - 0.1
    weights = torch.rand(b, queries, heads, len(shapes), points, generator=generator, dtype=dtype)
    return value, locations, weights


def defined_by_loops(value: Tensor, shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """The definition read aloud: four neighbours, each with its share, zero outside."""
    b, q, heads, levels, points, _ = locations.shape
    out = torch.zeros(b, q, heads, value.shape[-1], dtype=value.dtype)
    starts = [sum(h * w for h, w in shapes[:level]) for level in range(levels)]
    for i, j, head, level, point in torch.cartesian_prod(*map(torch.arange, (b, q, heads, levels, points))).tolist():
        h, w = shapes[level]
        x = locations[i, j, head, level, point, 0].item() * w - 0.5
        y = locations[i, j, head, level, point, 1].item() * h - 0.5
        for row, column in [(math.floor(y) + dy, math.floor(x) + dx) for dy in (0, 1) for dx in (0, 1)]:
            if 0 <= row < h and 0 <= column < w:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[i, j, head, level, point]
                out[i, j, head] += share * value[i, starts[level] + row * w + column, head]
    return out.flatten(2)


def test_a_point_on_a_cell_centre_sees_that_cell() -> None:
    assert one_sample([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], x=2.5 / 3, y=0.5 / 2) == pytest.approx(3.0)


def test_a_point_between_four_cells_sees_their_mean() -> None:
    assert one_sample([[1.0, 2.0], [5.0, 8.0]], x=0.5, y=0.5) == pytest.approx(4.0)


def test_a_point_a_quarter_of_the_way_sees_three_quarters_of_the_nearer_cell() -> None:
    assert one_sample([[0.0, 8.0], [0.0, 8.0]], x=0.25 + 0.25 * 0.5, y=0.25) == pytest.approx(2.0)


def test_a_point_on_the_edge_sees_half_and_a_point_outside_nothing() -> None:
    assert one_sample([[6.0]], x=0.0, y=0.5) == pytest.approx(3.0)
    assert one_sample([[6.0]], x=0.0, y=0.0) == pytest.approx(1.5)
    assert one_sample([[6.0]], x=1.6, y=0.5) == 0.0
    assert one_sample([[6.0]], x=0.5, y=-100.0) == 0.0


def test_it_is_what_its_definition_says() -> None:
    value, locations, weights = random_arguments()
    torch.testing.assert_close(
        ms_deform_attn(value, SHAPES, locations, weights), defined_by_loops(value, SHAPES, locations, weights)
    )


def test_levels_of_one_cell_work() -> None:
    shapes = ((1, 1), (1, 4), (3, 1))
    value, locations, weights = random_arguments(shapes=shapes)
    torch.testing.assert_close(
        ms_deform_attn(value, shapes, locations, weights), defined_by_loops(value, shapes, locations, weights)
    )


def test_weights_count_levels_and_points_and_need_not_sum_to_one() -> None:
    value = torch.ones(1, 30, 1, 1)
    locations = torch.full((1, 1, 1, 2, 2, 2), 0.5)
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 1, 2, 2)
    assert ms_deform_attn(value, SHAPES, locations, weights).item() == pytest.approx(10.0)


def test_no_queries_give_no_answers() -> None:
    value, locations, weights = random_arguments(queries=0)
    assert ms_deform_attn(value, SHAPES, locations, weights).shape == (2, 0, 12)


def test_the_layout_in_memory_does_not_matter() -> None:
    arguments = random_arguments()
    value, locations, weights = (x.transpose(0, -1).contiguous().transpose(0, -1) for x in arguments)
    assert not value.is_contiguous() and not locations.is_contiguous()
    torch.testing.assert_close(
        ms_deform_attn(value, SHAPES, locations, weights),
        ms_deform_attn(arguments[0], SHAPES, arguments[1], arguments[2]),
    )


def test_gradients_are_those_of_finite_differences() -> None:
    arguments = random_arguments(torch.float64, queries=2)
    value, locations, weights = (x.requires_grad_() for x in arguments)
    assert torch.autograd.gradcheck(lambda v, x, a: ms_deform_attn(v, SHAPES, x, a), (value, locations, weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_full_precision(dtype: torch.dtype) -> None:
    value, locations, weights = random_arguments()
    full = ms_deform_attn(value, SHAPES, locations, weights)
    half = ms_deform_attn(value.to(dtype), SHAPES, locations.to(dtype), weights.to(dtype))
    assert half.dtype == dtype
    assert (half.float() - full).abs().max() < 0.1


def test_images_and_heads_do_not_mix() -> None:
    value, locations, weights = random_arguments()
    before = ms_deform_attn(value, SHAPES, locations, weights).unflatten(-1, (3, 4))
    value[1, :, 2] += 1
    changed = (ms_deform_attn(value, SHAPES, locations, weights).unflatten(-1, (3, 4)) != before).any(-1).any(1)
    assert changed.tolist() == [[False, False, False], [False, False, True]]


def test_far_outside_is_nothing_and_has_no_gradient() -> None:
    value, locations, weights = random_arguments()
    for place in (-1e30, -5.0, 7.0, 1e30):
        for axis in (0, 1):
            moved = locations.clone()
            moved[..., axis] = place
            moved.requires_grad_()
            out = ms_deform_attn(value, SHAPES, moved, weights)
            out.sum().backward()
            assert not out.any() and not moved.grad.any()


def with_one(bad: float, where: str, width: int) -> list[Tensor]:
    """Random arguments, some places on cell centres and outside, with one number that is `bad`."""
    _, locations, weights = random_arguments(queries=70)
    value = torch.randn(2, 30, 3, width, generator=torch.Generator().manual_seed(1))
    locations[0, :3] = torch.tensor([[0.5 / 6, 0.5 / 4], [2.5 / 6, 1.5 / 4], [-3.0, 0.5]]).view(3, 1, 1, 1, 2)
    if where == "value":  # the first cell, where an index that means "none" might point
        value[0, 0, 1, 0] = bad
    elif where == "weight":
        weights[0, :5, 1, 0, 0] = bad
    else:
        locations[0, :5, 1, 0, 0, "xy".index(where)] = bad
    return [value, locations, weights]


@pytest.mark.parametrize("where", ["x", "y", "weight", "value"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("width", [4, 20, 33])
def test_what_is_no_number_shows_where_the_reference_shows_it(bad: float, where: str, width: int) -> None:
    results = []
    for name in ("auto", "reference"):
        value, locations, weights = (x.requires_grad_() for x in with_one(bad, where, width))
        out = ms_deform_attn(value, SHAPES, locations, weights, backend=name)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (value, locations, weights))))
    for found, wanted in zip(*results):
        assert torch.equal(found.isfinite(), wanted.isfinite())
        torch.testing.assert_close(found[found.isfinite()], wanted[found.isfinite()], atol=1e-3, rtol=1e-3)
    shown = ~results[0][0].isfinite()
    assert shown.any() and not shown[1].any(), "the other image is as it was"
    if where in "xy":
        assert results[0][0][shown].isnan().all() and shown[0, :5, width : 2 * width].all()


def test_everything_finite_near_the_borders() -> None:
    """On edges, corners and cell centres, a hair to each side."""
    value, _, weights = random_arguments(queries=81)
    places = torch.tensor([0.0, 1.0, 0.5, 1 / 12, 1 / 8, 1e-7, 1 - 1e-7, -1 / 12, 1 + 1 / 8])
    pairs = torch.cartesian_prod(places, places)
    locations = pairs.view(1, 81, 1, 1, 1, 2).expand(2, 81, 3, 2, 2, 2).clone().requires_grad_()
    out = ms_deform_attn(value, SHAPES, locations, weights)
    out.square().sum().backward()
    torch.testing.assert_close(out, defined_by_loops(value, SHAPES, locations.detach(), weights))
    assert locations.grad.isfinite().all()


@pytest.mark.parametrize("width", [1, 3, 16, 20, 32, 33, 72])
def test_heads_of_any_width(width: int) -> None:
    _, locations, weights = random_arguments()
    value = torch.randn(2, 30, 3, width, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        ms_deform_attn(value, SHAPES, locations, weights), defined_by_loops(value, SHAPES, locations, weights)
    )


@pytest.mark.parametrize("width", [3, 16, 40])
def test_gradients_are_those_of_the_reference(width: int) -> None:
    _, locations, weights = random_arguments(queries=70)
    value = torch.randn(2, 30, 3, width, generator=torch.Generator().manual_seed(1))
    wanted = torch.randn(2, 70, 3 * width, generator=torch.Generator().manual_seed(2))
    grads = []
    for name in ("auto", "reference"):
        arguments = [x.clone().requires_grad_() for x in (value, locations, weights)]
        out = ms_deform_attn(arguments[0], SHAPES, arguments[1], arguments[2], backend=name)
        grads.append(torch.autograd.grad((out * wanted).sum(), arguments))
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)


def test_no_images_give_no_answers() -> None:
    value, locations, weights = (x[:0] for x in random_arguments())
    assert ms_deform_attn(value, SHAPES, locations, weights).shape == (0, 5, 12)


def test_no_queries_have_gradients_of_zero() -> None:
    value, locations, weights = (x.requires_grad_() for x in random_arguments(queries=0))
    ms_deform_attn(value, SHAPES, locations, weights).sum().backward()
    assert not value.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_places_are_not_rounded_to_the_precision_of_the_values(dtype: torch.dtype) -> None:
    """On 128 cells half floats would move a place by a tenth of a cell."""
    value = torch.arange(128.0).view(1, 128, 1, 1).to(dtype)
    places = (torch.arange(9) * 7 + 64.5 + 0.25) / 128
    locations = torch.stack([places, torch.full_like(places, 0.5)], dim=-1).view(1, 9, 1, 1, 1, 2)
    out = ms_deform_attn(value, [(1, 128)], locations, torch.ones(1, 9, 1, 1, 1).to(dtype))
    torch.testing.assert_close(out.float().view(-1), (places * 128 - 0.5).to(dtype).float(), atol=0, rtol=0)


def test_gradients_have_the_dtype_of_what_they_belong_to() -> None:
    value, locations, weights = random_arguments()
    arguments = [value.bfloat16().requires_grad_(), locations.requires_grad_(), weights.half().requires_grad_()]
    ms_deform_attn(arguments[0], SHAPES, arguments[1], arguments[2]).sum().backward()
    assert [x.grad.dtype for x in arguments] == [torch.bfloat16, torch.float32, torch.float16]


def test_it_compiles_and_exports(backend: str) -> None:
    class Module(torch.nn.Module):
        def forward(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
            return ms_deform_attn(value, SHAPES, locations, weights)

    value, locations, weights = random_arguments()
    wanted = ms_deform_attn(value, SHAPES, locations, weights)
    compiled = torch.compile(Module(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(value, locations, weights), wanted)
    value.requires_grad_()
    (grad,) = torch.autograd.grad(compiled(value, locations, weights).sum(), value)
    (own,) = torch.autograd.grad(ms_deform_attn(value, SHAPES, locations, weights).sum(), value)
    torch.testing.assert_close(grad, own)
    exported = torch.export.export(Module(), (value.detach(), locations, weights))
    assert "dk_detr" not in str(exported.graph)
    torch.testing.assert_close(exported.module()(value.detach(), locations, weights), wanted)


def test_it_survives_activation_checkpointing() -> None:
    value, locations, weights = random_arguments()
    value.requires_grad_()
    out = torch.utils.checkpoint.checkpoint(
        ms_deform_attn, value, SHAPES, locations, weights, use_reentrant=False
    )
    (grad,) = torch.autograd.grad(out.sum(), value)
    (own,) = torch.autograd.grad(ms_deform_attn(value, SHAPES, locations, weights).sum(), value)
    torch.testing.assert_close(grad, own)


def test_threads_change_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 30, 3, 20, generator=generator, requires_grad=True)
    _, locations, weights = random_arguments(queries=200)
    results, threads = [], torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            out = ms_deform_attn(value, SHAPES, locations, weights)
            results.append((out.detach(), *torch.autograd.grad(out.square().sum(), value)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_auto_is_an_available_backend() -> None:
    assert available_backends()[-1] == "reference"
    assert default_backend("cpu") in available_backends("cpu")


def test_a_backend_of_another_device_is_refused() -> None:
    value, locations, weights = (x.to("meta") for x in random_arguments())
    with pytest.raises(ValueError, match='"cpu": it is for cpu, not meta'):
        ms_deform_attn(value, SHAPES, locations, weights, backend="cpu")


def test_an_unknown_backend_is_refused_by_name() -> None:
    value, locations, weights = random_arguments()
    with pytest.raises(ValueError, match='"abacus".*reference'):
        ms_deform_attn(value, SHAPES, locations, weights, backend="abacus")


def test_shapes_that_disagree_are_refused() -> None:
    value, locations, weights = random_arguments()
    with pytest.raises(ValueError, match="30 tokens.*make 24"):
        ms_deform_attn(value, SHAPES[:1], locations, weights)
    with pytest.raises(ValueError, match="attention_weights .* disagree"):
        ms_deform_attn(value, SHAPES, locations, weights[..., :1])
    with pytest.raises(ValueError, match="3 heads and 2 levels"):
        ms_deform_attn(value, SHAPES, locations[:, :, :2], weights[:, :, :2])
    with pytest.raises(ValueError, match="3 heads and 2 levels"):
        ms_deform_attn(value, SHAPES, locations[:, :, :, :1], weights[:, :, :, :1])
    with pytest.raises(ValueError, match="2 images"):
        ms_deform_attn(value, SHAPES, locations[:1], weights[:1])
