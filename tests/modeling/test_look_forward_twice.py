"""Looking forward twice, in the whole decoder: who learns from whose boxes, and from which features they come.

D layers, B images, Q queries, C channels. Source: DINO (ICLR 2023), §3.5.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from dk_detr.modeling import Decoder
from dk_detr.structures import FeaturePyramid, Memory, QueryGroup, QuerySet, Trace
from tests.model_fixtures import CHANNELS, random, stir, tiny_decoder

D = 4


def memory() -> Memory:
    return Memory.from_pyramid(FeaturePyramid((random(2, CHANNELS, 5, 6), random(2, CHANNELS, 3, 3))))


def decoder(refinement: str = "LookForwardTwice", num_heads: int = D) -> Decoder:
    """With a norm before the heads, as DINO has it."""
    made = tiny_decoder(D, refinement, num_heads, positions="SineAnchors")
    made.norm = nn.LayerNorm(CHANNELS)
    return stir(made).eval()


def anchors() -> Tensor:
    return random(2, 3, 4, seed=3).sigmoid() * 0.5 + 0.2


def queries(reference: Tensor) -> QuerySet:
    content = random(2, 3, CHANNELS, seed=2)
    return QuerySet((QueryGroup("detection", content, None, reference, ("detection",), "detection"),))


@contextmanager
def watched(module: Decoder) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """(reference, content) of each layer: what it was given, and what it gave."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [layer.register_forward_hook(lambda _, given, out: seen.append((given[2], out))) for layer in module.layers]
    yield seen
    for hook in hooks:
        hook.remove()


def logit(x: Tensor) -> Tensor:
    return (x / (1 - x)).log()


@pytest.mark.parametrize("num_heads", [1, D], ids=["shared", "per layer"])
def test_boxes_are_predicted_from_normed_features_and_refined_from_raw_ones(num_heads: int) -> None:
    """b = σ(Δ(norm(c)) + σ⁻¹(b')), with b' = σ(Δ(c) + σ⁻¹(b'')) of the layer before."""
    module = decoder(num_heads=num_heads)
    with watched(module) as seen, torch.no_grad():
        trace = module(queries(anchors()), memory())
    start = anchors()
    for layer, (reference, content) in enumerate(seen):
        head = module.box_heads[layer % num_heads]
        torch.testing.assert_close(reference, start)
        torch.testing.assert_close(trace.hidden_states[layer], module.norm(content))
        torch.testing.assert_close(trace.boxes[layer], (head(module.norm(content)) + logit(start)).sigmoid())
        start = (head(content) + logit(start)).sigmoid()
    assert not torch.allclose(seen[1][0], trace.boxes[0], atol=1e-3), "norm does make a difference"


def who_learns(trace: Trace, parts: list[nn.Module | Tensor]) -> list[list[int]]:
    """For each part the layers whose boxes give it a gradient."""
    learns: list[list[int]] = [[] for _ in parts]
    for layer in range(D):
        for number, part in enumerate(parts):
            wanted = list(part.parameters()) if isinstance(part, nn.Module) else [part]
            loss = trace.boxes[layer].square().sum()
            grads = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
            if any(grad is not None and grad.any() for grad in grads):
                learns[number].append(layer)
    return learns


def test_an_offset_learns_from_the_boxes_of_its_layer_and_of_the_next_and_no_other() -> None:
    module = decoder()
    trace = module(queries(anchors()), memory())
    assert who_learns(trace, list(module.box_heads)) == [[0, 1], [1, 2], [2, 3], [3]]


def test_with_iterative_refinement_an_offset_learns_from_its_layer_alone() -> None:
    module = decoder("Iterative")
    trace = module(queries(anchors()), memory())
    assert who_learns(trace, list(module.box_heads)) == [[0], [1], [2], [3]]


def test_learned_anchors_learn_from_all_layers_by_what_they_see_and_no_layer_looks_with_a_gradient() -> None:
    """The first place and the first box are theirs; what later layers look at is only where they got to."""
    module, reference = decoder(), anchors().requires_grad_()
    with watched(module) as seen:
        trace = module(queries(reference), memory())
    assert [given.requires_grad for given, _ in seen] == [True, False, False, False]
    assert who_learns(trace, [reference]) == [[0, 1, 2, 3]]


def by_hand(module: Decoder, contents: list[Tensor], start: Tensor) -> list[Tensor]:
    """Boxes of all layers, from what the layers gave, with an explicit stop of the gradient."""
    boxes, going_on = [], start
    for head, content in zip(module.box_heads, contents):
        boxes.append((head(module.norm(content)) + logit(start)).sigmoid())
        start = (head(content) + logit(going_on)).sigmoid()
        going_on = start.detach()
    return boxes


def test_gradients_are_those_of_the_formula() -> None:
    module = decoder()
    with watched(module) as seen:
        trace = module(queries(anchors()), memory())
    wanted = by_hand(module, [content for _, content in seen], anchors())
    weights = random(D, 2, 3, 4, seed=9)
    parameters = [*module.box_heads.parameters(), *module.norm.parameters(), *module.layers.parameters()]
    ours = torch.autograd.grad((trace.boxes * weights).sum(), parameters, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad((torch.stack(wanted) * weights).sum(), parameters, allow_unused=True)
    for own, other in zip(ours, theirs):
        assert (own is None) == (other is None)
        if own is not None:
            torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-5)


def test_who_follows_another_group_starts_from_its_boxes_and_teaches_its_offsets_no_more_than_the_next_layer() -> None:
    follows = QueryGroup("auxiliary", random(2, 3, CHANNELS, seed=5), None, anchors(), ("auxiliary",), "detection")
    module = decoder()
    with watched(module) as seen:
        trace = module(QuerySet((*queries(anchors()).groups, follows)), memory())
    for reference, _ in seen:
        assert torch.equal(reference[:, :3], reference[:, 3:])
    grads = torch.autograd.grad(trace.of("auxiliary")[0].sum(), list(module.box_heads.parameters()), allow_unused=True)
    assert not any(grad is not None and grad.any() for grad in grads), "features teach no box head"
