"""The decoder loop: groups that do not mix, boxes that are refined, followed or left alone.

B images, Q queries, C channels.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.layers import inverse_sigmoid
from dk_detr.modeling import BoxParameterization, Decoder, Iterative
from dk_detr.structures import FeaturePyramid, Memory, QueryGroup, QuerySet
from tests.model_fixtures import CHANNELS, random, stir, tiny_decoder


def memory(images: int = 2) -> Memory:
    return Memory.from_pyramid(FeaturePyramid((random(images, CHANNELS, 5, 6), random(images, CHANNELS, 3, 3))))


def group(
    name: str, seed: int, attends_to=None, reference_from="itself", blocked: Tensor | None = None, size: int = 4
) -> QueryGroup:
    content, position = random(2, 2, size, CHANNELS, seed=seed)
    boxes = random(2, size, 4, seed=seed).sigmoid() * 0.5 + 0.2
    reference_from = name if reference_from == "itself" else reference_from
    attends_to = (name,) if attends_to is None else attends_to
    return QueryGroup(name, content, position, boxes, attends_to, reference_from, blocked)


def decode(*groups: QueryGroup, decoder: Decoder | None = None):
    with torch.no_grad():
        return (decoder or stir(tiny_decoder()).eval())(QuerySet(groups), memory())


def shifting_decoder(shift: float) -> Decoder:
    """Every layer moves every box by `shift` before the sigmoid, whatever the query says."""
    decoder = tiny_decoder(num_layers=3)
    for head in decoder.box_heads:
        torch.nn.init.constant_(head.layers[-1].bias, shift)
    return decoder


@pytest.mark.parametrize("attends_to", [("auxiliary",), ("detection",), ("detection", "auxiliary")])
def test_a_group_that_sees_nobody_is_unchanged_by_company(attends_to: tuple[str, ...]) -> None:
    detect = group("detection", 1)
    alone = decode(detect)
    for seed in (2, 3):
        company = decode(detect, group("auxiliary", seed, attends_to, reference_from="detection"))
        for ours, theirs in zip(company.of("detection"), alone.of("detection")):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_an_auxiliary_query_is_unchanged_by_the_detection_queries_unless_it_attends_to_them() -> None:
    first, second = group("detection", 1), group("detection", 4)

    def auxiliary_beside(detect: QueryGroup, attends_to: tuple[str, ...]) -> Tensor:
        return decode(detect, group("auxiliary", 2, attends_to, reference_from=None)).of("auxiliary")[0]

    torch.testing.assert_close(auxiliary_beside(first, ("auxiliary",)), auxiliary_beside(second, ("auxiliary",)))
    seeing = auxiliary_beside(first, ("auxiliary", "detection")) - auxiliary_beside(second, ("auxiliary", "detection"))
    assert seeing.abs().max() > 1e-3


def test_a_group_that_attends_to_nobody_hears_nothing_and_stays_finite() -> None:
    quiet = group("auxiliary", 2, attends_to=())
    hidden = decode(group("detection", 1), quiet).of("auxiliary")[0]
    assert torch.isfinite(hidden).all()
    quiet.content[:, 3] += 1
    torch.testing.assert_close(decode(group("detection", 1), quiet).of("auxiliary")[0][:, :, :3], hidden[:, :, :3])


def test_a_bar_of_its_own_for_each_image_bars_that_image_only() -> None:
    inner = torch.zeros(2, 4, 4, dtype=torch.bool)
    inner[0, 0, 1:] = True
    hidden, _ = decode(group("detection", 1, blocked=inner)).of("detection")
    free, _ = decode(group("detection", 1)).of("detection")
    changed = ((hidden - free)[0].abs() > 1e-6).any(-1)
    assert changed.tolist() == [[True, False, False, False], [False, False, False, False]]


def test_queries_do_see_the_others_of_their_group_and_the_image() -> None:
    first, second = group("detection", 1), group("detection", 1)
    second.content[:, 3] += 1
    apart = (decode(first).of("detection")[0] - decode(second).of("detection")[0]).abs().amax(-1)
    assert (apart[0] > 1e-5).all()


def test_each_layer_refines_the_boxes_of_the_one_before() -> None:
    detect = group("detection", 1)
    _, boxes = decode(detect, decoder=shifting_decoder(0.3)).of("detection")
    for layer in range(3):
        wanted = (inverse_sigmoid(detect.reference) + 0.3 * (layer + 1)).sigmoid()
        torch.testing.assert_close(boxes[layer], wanted)


def test_a_group_follows_the_boxes_of_the_detection_queries_or_stays() -> None:
    detect = group("detection", 1)
    follows = group("follows", 2, reference_from="detection")
    stays = group("stays", 3, reference_from=None)
    trace = decode(detect, follows, stays, decoder=shifting_decoder(0.3))
    for layer in range(3):
        start = follows.reference if layer == 0 else trace.of("detection")[1][layer - 1]
        torch.testing.assert_close(trace.of("follows")[1][layer], (inverse_sigmoid(start) + 0.3).sigmoid())
        torch.testing.assert_close(trace.of("stays")[1][layer], (inverse_sigmoid(stays.reference) + 0.3).sigmoid())


def points(seed: int = 1, name: str = "detection", reference_from="itself") -> QueryGroup:
    """Queries that start from points."""
    boxes = group(name, seed, reference_from=reference_from)
    return replace(boxes, reference=boxes.reference[..., :2])


def test_points_become_boxes_that_later_layers_refine() -> None:
    decoder = tiny_decoder(num_layers=3, reference_width=2)
    detect = points()
    _, boxes = decode(detect, decoder=decoder).of("detection")
    small = torch.tensor(-2.0).sigmoid().expand(2, 4, 2)
    for layer in range(3):
        torch.testing.assert_close(boxes[layer], torch.cat([detect.reference, small], dim=-1))
    torch.nn.init.constant_(decoder.box_heads[1].layers[-1].bias, 0.3)
    _, moved = decode(detect, decoder=decoder).of("detection")
    torch.testing.assert_close(moved[1:], (inverse_sigmoid(boxes[1:]) + 0.3).sigmoid())
    assert torch.equal(moved[0], boxes[0])


def test_a_group_at_a_point_that_stays_keeps_its_place_and_its_first_size() -> None:
    decoder, stays = shifting_decoder(0.3), points(3, "stays", reference_from=None)
    trace = decode(points(), stays, decoder=decoder)
    _, boxes = trace.of("stays")
    center, side = (inverse_sigmoid(stays.reference) + 0.3).sigmoid(), torch.full((2, 4, 2), 0.3).sigmoid()
    torch.testing.assert_close(boxes[0], torch.cat([center, side], dim=-1))
    for later in boxes[1:]:
        torch.testing.assert_close(later, torch.cat([center, torch.full((2, 4, 2), 0.6).sigmoid()], dim=-1))


@pytest.mark.parametrize("start", [points, lambda: group("detection", 1)], ids=["points", "boxes"])
def test_from_reference_every_layer_starts_where_the_first_did(start) -> None:
    detect = start()
    decoder = stir(tiny_decoder(3, "FromReference", reference_width=detect.reference.shape[-1])).eval()
    seen = []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda module, given, content: seen.append(given[2]))
    hidden, boxes = decode(detect, decoder=decoder).of("detection")
    assert len(seen) == 3 and all(torch.equal(reference, detect.reference) for reference in seen)
    for head, content, predicted in zip(decoder.box_heads, hidden, boxes):
        torch.testing.assert_close(predicted, decoder.refinement.decode_boxes(detect.reference, head(content)))


def test_a_shared_head_serves_all_layers_and_is_saved_once() -> None:
    one, each = tiny_decoder(num_layers=3, num_heads=1), tiny_decoder(num_layers=3)
    assert len(one.box_heads) == 1 and len(each.box_heads) == 3
    stir(one).eval()
    each.layers.load_state_dict(one.layers.state_dict())
    for head in each.box_heads:
        head.load_state_dict(one.box_heads[0].state_dict())
    detect = group("detection", 1)
    torch.testing.assert_close(decode(detect, decoder=one).boxes, decode(detect, decoder=each.eval()).boxes)


def test_a_layer_is_not_blamed_for_the_boxes_of_the_next() -> None:
    decoder = stir(tiny_decoder())
    trace = decoder(QuerySet((group("detection", 1),)), memory())
    first_head = list(decoder.box_heads[0].parameters())
    grads = torch.autograd.grad(trace.boxes[1].sum(), first_head, retain_graph=True)
    assert not any(grad.any() for grad in grads)
    assert all(grad.any() for grad in torch.autograd.grad(trace.boxes[0].sum(), first_head))


def test_the_trace_holds_what_each_layer_gave_in_the_order_of_layers_and_groups() -> None:
    decoder, given = stir(tiny_decoder(3)).eval(), []
    for layer in decoder.layers:
        layer.register_forward_hook(lambda module, inputs, content: given.append(content))
    detection, auxiliary = group("detection", 1), group("auxiliary", 2, size=3)
    trace = decode(detection, auxiliary, decoder=decoder)
    assert torch.equal(trace.hidden_states, torch.stack(given)) and trace.hidden_states.shape == (3, 2, 7, CHANNELS)
    for name, span in (("detection", slice(0, 4)), ("auxiliary", slice(4, 7))):
        hidden_states, boxes = trace.of(name)
        assert torch.equal(hidden_states, trace.hidden_states[:, :, span])
        assert torch.equal(boxes, trace.boxes[:, :, span])
    first = decoder.refinement.decode_boxes(detection.reference, decoder.box_heads[0](given[0][:, :4]))
    torch.testing.assert_close(trace.of("detection")[1][0], first)


def test_a_decoder_makes_boxes_as_its_parameterization_says() -> None:
    class Shifted(BoxParameterization):
        def decode(self, start: Tensor | None, delta: Tensor, image_sizes: Any = ()) -> Tensor:
            return start + 0.01 * delta.new_ones(4)

    decoder = tiny_decoder(num_layers=3)
    decoder.refinement = Iterative(Shifted())
    detection = group("detection", 1)
    boxes = decode(detection, decoder=decoder.eval()).boxes
    for layer in range(3):
        torch.testing.assert_close(boxes[layer], detection.reference + 0.01 * (layer + 1))


def test_positions_are_told_the_number_of_the_layer() -> None:
    """The first content is no knowledge yet, so that some of them leave it out there."""
    decoder, told = tiny_decoder(num_layers=3), []
    decoder.positions.register_forward_hook(lambda module, given, position: told.append(given[3]))
    decode(group("detection", 1), decoder=decoder.eval())
    assert told == [0, 1, 2]


def test_queries_without_position_or_reference_are_refused() -> None:
    bare = QueryGroup("detection", random(2, 4, CHANNELS), None, None, ("detection",), None)
    with pytest.raises(ValueError, match="needs queries with a position"):
        decode(bare)
    with pytest.raises(ValueError, match="needs queries with a reference"):
        decode(replace(bare, position=bare.content))
