"""AdaMixer's parts against what can be counted by hand. B images, Q queries, G groups, P points."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from dk_detr.modeling.adamixer.decoder import AdaMixer, BiasedSelfAttention, Stage
from dk_detr.modeling.adamixer.geometry import code_of_boxes, log_iof, scale_and_ratio, sides_of
from dk_detr.modeling.adamixer.mixing import AdaptiveMixing
from dk_detr.modeling.adamixer.sampling import AdaptiveSampling
from dk_detr.modeling.box_parameterization import ScaleRatio
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.modeling.queries import WholeImage
from dk_detr.structures import DETECTION, FeaturePyramid, Memory, QueryGroup, QuerySet
from tests.model_fixtures import fixed_seed, random, stir

CHANNELS, GROUPS, POINTS, OUT, HEADS, STRIDES = 16, 4, 5, 6, 8, (8, 16)
SIZE = (40, 48)


def memory(values: Tensor | None = None, size: tuple[int, int] = SIZE, canvas: tuple[int, int] = SIZE) -> Memory:
    """Of one image on a canvas; constant maps of C values, or noise."""
    levels = []
    for number, stride in enumerate(STRIDES):
        h, w = -(-canvas[0] // stride), -(-canvas[1] // stride)
        noise = random(1, CHANNELS, h, w, seed=number)
        levels.append(noise if values is None else values.view(1, -1, 1, 1).expand(1, CHANNELS, h, w))
    return Memory.from_pyramid(FeaturePyramid.from_padded(levels, [size], canvas))


def sampling() -> AdaptiveSampling:
    with fixed_seed():
        return AdaptiveSampling(CHANNELS, GROUPS, POINTS, STRIDES)


def decoder(stages: int = 3) -> AdaMixer:
    with fixed_seed():
        made = [
            Stage(
                CHANNELS, HEADS, sampling(), AdaptiveMixing(CHANNELS, GROUPS, POINTS, OUT),
                FeedForward(CHANNELS, 24, dropout=0.0),
            )
            for _ in range(stages)
        ]  # fmt: skip
        return AdaMixer(made, ScaleRatio())


def queries(number: int = 6) -> QuerySet:
    with fixed_seed(1):
        return QuerySet((WholeImage(CHANNELS, number)(memory()).group,))


BOX = torch.tensor([[[20.0, 18.0, 16.0, 8.0]]])  # cxcywh in pixels


# ---- boxes ----


def test_scale_and_ratio_are_those_of_the_sides() -> None:
    assert_close(scale_and_ratio(BOX)[0, 0], torch.tensor([math.log2(math.sqrt(128)), -1.0]))
    assert scale_and_ratio(torch.zeros(1, 4)).isfinite().all()


def test_queries_start_as_the_image_and_without_steps_stay_so() -> None:
    trace = decoder()(queries(), memory())
    whole = torch.tensor([0.5, 0.5, 1.0, 1.0])
    assert_close(trace.boxes, whole.expand(3, 1, 6, 4))
    assert_close((trace.boxes[0] * sides_of((SIZE,), trace.boxes.device))[0, 0], torch.tensor([24.0, 20.0, 48.0, 40.0]))


def test_contents_are_normalised() -> None:
    content = queries().content
    assert_close(content.mean(-1), torch.zeros(1, 6), atol=1e-5, rtol=0)
    assert_close(content.var(-1, unbiased=False), torch.ones(1, 6), atol=1e-3, rtol=0)


def test_no_loss_of_a_stage_moves_the_boxes_of_an_earlier_one() -> None:
    made = stir(decoder())
    trace = made(queries(), memory())
    (trace.boxes[-1].sum() + trace.hidden_states[-1].square().sum()).backward()
    learns = [all(p.grad is not None and p.grad.any() for p in stage.sampling.parameters()) for stage in made.layers]
    moves = [bool(stage.box_head.weight.grad.any()) for stage in made.layers]
    assert learns == [True, True, True] and moves == [False, False, True]


# ---- who talks to whom ----


def test_the_share_inside_is_not_symmetric() -> None:
    inner, outer, apart = [20.0, 20.0, 4.0, 4.0], [20.0, 20.0, 8.0, 16.0], [200.0, 200.0, 4.0, 4.0]
    share = log_iof(torch.tensor([[inner, outer, apart]]))[0]
    assert_close(share[0, 1], torch.tensor(0.0), atol=1e-5, rtol=0)
    assert_close(share[1, 0], torch.tensor(math.log(16 / 128)), atol=1e-5, rtol=0)
    assert share[0, 2] < -16 and share.diagonal().abs().max() < 1e-5


def test_without_sharpness_it_is_plain_attention() -> None:
    with fixed_seed():
        made = BiasedSelfAttention(CHANNELS, HEADS)
    plain = nn.MultiheadAttention(CHANNELS, HEADS, batch_first=True)
    plain.load_state_dict({name: tensor for name, tensor in made.state_dict().items() if name != "iof_tau"})
    with torch.no_grad():
        made.iof_tau.zero_()
        content, boxes = random(1, 4, CHANNELS), BOX.repeat(1, 4, 1)
        at = made(content, boxes, None) - plain(*[content + code(boxes)] * 3)[0]
    assert_close(at, content + code(boxes), atol=1e-5, rtol=0)


def code(boxes: Tensor) -> Tensor:
    return code_of_boxes(boxes, CHANNELS)


def test_a_group_that_sees_nobody_is_unchanged_by_company() -> None:
    made, (detection,) = stir(decoder()), queries().groups
    company = QueryGroup("others", random(1, 3, CHANNELS), None, BOX.repeat(1, 3, 1) / 50, ("others",), None)
    alone, together = made(QuerySet((detection,)), memory()), made(QuerySet((detection, company)), memory())
    for mine, both in zip(alone.of(DETECTION), together.of(DETECTION)):
        assert_close(mine, both, atol=1e-5, rtol=1e-5)
    # Whoever stays keeps its place in every stage.
    assert_close(together.boxes[0, :, 6:].shape, together.boxes[1, :, 6:].shape)


# ---- sampling ----


def test_inside_a_constant_map_every_point_sees_the_constant() -> None:
    values = random(CHANNELS)
    found = sampling()(random(1, 1, CHANNELS), BOX, memory(values))
    assert_close(found, values.view(1, 1, GROUPS, 1, -1).expand(1, 1, GROUPS, POINTS, -1), atol=1e-5, rtol=1e-5)


def test_a_point_sees_the_cell_that_it_lies_on_and_levels_count_by_scale() -> None:
    made, image = sampling(), memory()
    scale = 3.0 + 0.25  # an octave is added below
    with torch.no_grad():
        made.offsets.bias.zero_()
        made.offsets.bias[2::3] = scale - math.log2(16.0)
    box = torch.tensor([[[8 * 2.5, 8 * 3.5, 16.0, 16.0]]])  # the centre of column 2, row 3 of the finer map
    found = made(torch.zeros(1, 1, CHANNELS), box, image)[0, 0].transpose(0, 1).flatten(1)[0]
    weights = torch.tensor([-((scale - 3) ** 2) / 2, -((scale - 4) ** 2) / 2]).softmax(0)
    fine, coarse = image.tokens[0].split([30, 9])
    at = F.grid_sample(
        coarse.T.view(1, CHANNELS, 3, 3), 2 * torch.tensor([[[[20 / 48, 28 / 48]]]]) - 1, align_corners=False
    ).flatten()
    assert_close(found, weights[0] * fine.view(5, 6, CHANNELS)[3, 2] + weights[1] * at, atol=1e-5, rtol=1e-5)


def test_groups_read_their_own_channels() -> None:
    image, made = memory(), stir(sampling())
    changed = image.tokens.clone()
    changed[..., 4:8] += 1
    content = random(1, 1, CHANNELS)
    before = made(content, BOX, image)
    after = made(content, BOX, Memory(changed, image.shapes, image.centers, image_sizes=image.image_sizes))
    differs = (before != after).any(-1).any(-1)[0, 0]
    assert differs.tolist() == [False, True, False, False]


def test_padding_moves_no_sample_and_shows_nothing() -> None:
    made = stir(decoder())
    alone, padded = (made(queries(), memory(random(CHANNELS), canvas=canvas)) for canvas in (SIZE, (64, 96)))
    assert_close(padded.hidden_states, alone.hidden_states, atol=1e-5, rtol=1e-5)
    assert_close(padded.boxes, alone.boxes, atol=1e-5, rtol=1e-5)


# ---- mixing ----


def test_points_out_go_where_their_weights_say() -> None:
    with fixed_seed():
        made = AdaptiveMixing(CHANNELS, GROUPS, POINTS, OUT)
    sampled, content, order = random(1, 1, GROUPS, POINTS, 4), random(1, 1, CHANNELS), torch.tensor([3, 1, 0, 5, 2, 4])
    before = made(sampled, content)
    with torch.no_grad():
        bias = made.parameter_generator.bias.view(GROUPS, -1)
        bias[:, 16:] = bias[:, 16:].view(GROUPS, OUT, POINTS)[:, order].flatten(1)
        weight = made.out.weight.view(CHANNELS, GROUPS, OUT, 4)
        weight.copy_(weight[:, :, order].clone())
    assert_close(made(sampled, content), before, atol=1e-5, rtol=1e-5)


def test_at_first_all_queries_mix_alike_and_points_lie_in_the_box_below_its_scale() -> None:
    made = decoder(1).layers[0]
    assert not made.mixing.parameter_generator.weight.any() and made.mixing.parameter_generator.bias.std() > 0.05
    assert not made.sampling.offsets.weight.any()
    offsets = made.sampling.offsets.bias.view(GROUPS, POINTS, 3)
    assert offsets[..., :2].abs().max() <= 0.5 and offsets[..., :2].unique().numel() == 2 * GROUPS * POINTS
    assert (offsets[..., 2] == -1).all()
    assert not made.box_head.weight.any() and (0 <= made.self_attention.iof_tau).all()
    assert made.self_attention.iof_tau.max() <= 4
