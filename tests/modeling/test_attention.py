"""Attention: who looks at whom, by softmax(q·k / √d)·v written out head by head; and that padding is looked at by none.

B images, Q queries, S tokens, C channels, H heads.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dk_detr.modeling import (
    ConditionalCross,
    ConditionalSelf,
    DenseCross,
    DenseSelf,
    DenseTokens,
    FirstConditionalCross,
    QueryPosition,
)
from dk_detr.structures import FeaturePyramid, Memory
from tests.model_fixtures import fixed_seed, random, stir

B, Q, C, H = 2, 5, 8, 2
SELF = (DenseSelf, ConditionalSelf)
CROSS = (DenseCross, ConditionalCross, FirstConditionalCross)


def part(kind: Any) -> Any:
    with fixed_seed():
        return stir(kind(C, H, 0.0)).eval()


def content() -> Tensor:
    return random(B, Q, C, seed=1)


def position() -> QueryPosition:
    return QueryPosition(random(B, Q, C, seed=2), random(B, Q, C, seed=3))


def memory(padded: bool = True) -> Memory:
    """Twelve tokens; of the first image six are padding."""
    valid = torch.tensor([[[3, 2]], [[4, 3]]]) if padded else None
    made = Memory.from_pyramid(FeaturePyramid((random(B, C, 3, 4, seed=4),), valid))
    return replace(made, position=random(B, 12, C, seed=5))


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return layer.weight @ x + layer.bias


def projections(dense: nn.MultiheadAttention) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of query, key and value, which torch keeps in one matrix."""
    return list(zip(dense.in_proj_weight.split(C), dense.in_proj_bias.split(C)))


def look(query: Tensor, keys: list[Tensor], values: list[Tensor], may: list[bool]) -> Tensor:
    """One query and head: the mean of the values that it may see, by the softmax of its products with the keys."""
    weights = [math.exp((query @ key).item() / math.sqrt(len(query))) if free else 0.0 for key, free in zip(keys, may)]
    return sum(weight / sum(weights) * value for weight, value in zip(weights, values))  # type: ignore[return-value]


def in_heads(
    queries: list[list[Tensor]], keys: list[list[Tensor]], values: list[Tensor], may: list[list[bool]]
) -> list[Tensor]:
    """What each query sees in all heads. Of each head a query and a key are the parts in the list, side by side."""
    out = []
    for query, allowed in zip(queries, may):
        heads = []
        for head in range(H):
            channels = slice(head * C // H, (head + 1) * C // H)
            of_head = [torch.cat([piece[channels] for piece in key]) for key in keys]
            own = torch.cat([piece[channels] for piece in query])
            heads.append(look(own, of_head, [value[channels] for value in values], allowed))
        out.append(torch.cat(heads))
    return out


def dense_by_hand(
    module: nn.MultiheadAttention, queries: Tensor, keys: Tensor, values: Tensor, may: list[list[bool]]
) -> Tensor:
    """(Q, C) of one image."""
    (wq, bq), (wk, bk), (wv, bv) = projections(module)
    seen = in_heads([[wq @ x + bq] for x in queries], [[wk @ x + bk] for x in keys], [wv @ x + bv for x in values], may)
    return torch.stack([linear(module.out_proj, x) for x in seen])


def everybody(number: int, others: int) -> list[list[bool]]:
    return [[True] * others for _ in range(number)]


def allowed(blocked: Tensor | None, image: int) -> list[list[bool]]:
    if blocked is None:
        return everybody(Q, Q)
    return (~(blocked if blocked.ndim == 2 else blocked[image])).tolist()


def bars() -> dict[str, Tensor | None]:
    """Nobody, the same for all images, and another for each; nobody is barred from itself."""
    free = torch.eye(Q, dtype=torch.bool)
    common, each = random(Q, Q, seed=6) > 0.3, random(B, Q, Q, seed=7) > 0.3
    return {"free": None, "common": common & ~free, "each": each & ~free}


BARS = pytest.mark.parametrize("blocked", bars().values(), ids=bars().keys())


@BARS
def test_dense_queries_see_by_the_formula_those_they_may(blocked: Tensor | None) -> None:
    module, at = part(DenseSelf), content() + position().self_attention
    seen = module(content(), position(), blocked)
    for image in range(B):
        wanted = dense_by_hand(module, at[image], at[image], content()[image], allowed(blocked, image))
        torch.testing.assert_close(seen[image], wanted)


@pytest.mark.parametrize("padded", [False, True])
def test_dense_queries_see_the_tokens_of_the_image_by_the_formula(padded: bool) -> None:
    module, tokens = part(DenseCross), memory(padded)
    seen = module(content(), position(), None, tokens)
    for image in range(B):
        may = [(~tokens.padding[image]).tolist()] * Q if padded else everybody(Q, 12)
        keys = tokens.tokens[image] + tokens.position[image]
        at = content()[image] + position().cross_attention[image]
        torch.testing.assert_close(seen[image], dense_by_hand(module, at, keys, tokens.tokens[image], may))


@pytest.mark.parametrize("padded", [False, True])
def test_dense_tokens_see_the_tokens_of_the_image_by_the_formula(padded: bool) -> None:
    module, layout = part(DenseTokens), memory(padded)
    seen = module(layout.tokens, layout.position, layout)
    for image in range(B):
        may = [(~layout.padding[image]).tolist()] * 12 if padded else everybody(12, 12)
        at = layout.tokens[image] + layout.position[image]
        torch.testing.assert_close(seen[image], dense_by_hand(module, at, at, layout.tokens[image], may))


@BARS
def test_conditional_queries_add_content_and_place_each_projected_by_itself(blocked: Tensor | None) -> None:
    module, own = part(ConditionalSelf), position().self_attention
    seen = module(content(), position(), blocked)
    for image in range(B):
        pairs = list(zip(content()[image], own[image]))
        queries = [[linear(module.q_content, c) + linear(module.q_position, p)] for c, p in pairs]
        keys = [[linear(module.k_content, c) + linear(module.k_position, p)] for c, p in pairs]
        values = [linear(module.value, c) for c, _ in pairs]
        wanted = in_heads(queries, keys, values, allowed(blocked, image))
        torch.testing.assert_close(seen[image], torch.stack([linear(module.out_proj, x) for x in wanted]))


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", [ConditionalCross, FirstConditionalCross])
def test_conditional_queries_compare_content_beside_place_in_every_head(kind: Any, padded: bool) -> None:
    """q = [q_c ; q_p] and k = [k_c ; k_p], C/H numbers each, over √(2 C/H); in the first layer the place also stands
    in for the content that queries do not have yet."""
    module, tokens, first = part(kind), memory(padded), kind is FirstConditionalCross
    seen = module(content(), position(), None, tokens)
    for image in range(B):
        queries, keys = [], []
        codes = zip(position().self_attention[image], position().cross_attention[image])
        for c, (own, sought) in zip(content()[image], codes):
            more = linear(module.q_own, own) if first else torch.zeros(C)
            queries.append([linear(module.q_content, c) + more, linear(module.q_position, sought)])
        for token, code in zip(tokens.tokens[image], tokens.position[image]):
            more = linear(module.k_position, code) if first else torch.zeros(C)
            keys.append([linear(module.k_content, token) + more, linear(module.k_position, code)])
        values = [linear(module.value, token) for token in tokens.tokens[image]]
        may = [(~tokens.padding[image]).tolist()] * Q if padded else everybody(Q, 12)
        wanted = in_heads(queries, keys, values, may)
        torch.testing.assert_close(seen[image], torch.stack([linear(module.out_proj, x) for x in wanted]))


@pytest.mark.parametrize("kind", [ConditionalCross, FirstConditionalCross])
def test_codes_that_are_the_same_for_all_images_are_given_once(kind: Any) -> None:
    """As an encoder gives them where nothing is padded."""
    module, tokens = part(kind), memory(padded=False)
    once = replace(tokens, position=tokens.position[:1])
    each = replace(tokens, position=tokens.position[:1].expand(B, -1, -1))
    torch.testing.assert_close(module(content(), position(), None, once), module(content(), position(), None, each))


@pytest.mark.parametrize("kind", CROSS)
def test_what_padding_holds_changes_nothing_that_queries_see(kind: Any) -> None:
    module, tokens = part(kind), memory()
    before = module(content(), position(), None, tokens)
    rubbish = tokens.padding[..., None] * 1e3
    other = replace(tokens, tokens=tokens.tokens + rubbish, position=tokens.position - rubbish)
    assert torch.equal(module(content(), position(), None, other), before)


def test_what_padding_holds_changes_nothing_that_tokens_see() -> None:
    module, layout = part(DenseTokens), memory()
    before = module(layout.tokens, layout.position, layout)
    after = module(layout.tokens + layout.padding[..., None] * 1e3, layout.position, layout)
    assert torch.equal(after[~layout.padding], before[~layout.padding])


@pytest.mark.parametrize("kind", SELF)
@pytest.mark.parametrize("ndim", [2, 3])
def test_who_is_barred_has_no_influence_and_gets_no_gradient(kind: Any, ndim: int) -> None:
    module = part(kind)
    blocked = torch.zeros((Q, Q) if ndim == 2 else (B, Q, Q), dtype=torch.bool)
    blocked[..., 0, 3:] = True
    x = content().requires_grad_()
    module(x, position(), blocked)[:, 0].square().sum().backward()
    assert not x.grad[:, 3:].any() and x.grad[:, :3].any(-1).all()


@pytest.mark.parametrize("kind", SELF)
def test_a_bar_in_one_image_bars_nobody_in_the_other(kind: Any) -> None:
    module, blocked = part(kind), torch.zeros(B, Q, Q, dtype=torch.bool)
    blocked[0, 0, 1:] = True
    changed = (module(content(), position(), blocked) - module(content(), position(), None)).abs().amax(-1) > 1e-5
    assert changed.tolist() == [[True] + [False] * (Q - 1), [False] * Q]


@pytest.mark.parametrize("kind", SELF)
def test_a_bias_is_added_to_the_similarities_and_masks_stay_masks(kind: Any) -> None:
    """As where a box attends more to what lies inside it: an infinite bias is a mask, zero is none."""
    module, blocked = part(kind), torch.zeros(Q, Q, dtype=torch.bool)
    blocked[0, 3:] = True
    nothing, barred = torch.zeros(1, 1, Q, Q), torch.zeros(1, 1, Q, Q).masked_fill(blocked, -torch.inf)
    masked = module(content(), position(), blocked)
    torch.testing.assert_close(module(content(), position(), None, barred), masked)
    torch.testing.assert_close(module(content(), position(), blocked, nothing), masked)
    strong = random(B, 1, Q, Q, seed=5)
    assert not torch.allclose(module(content(), position(), None, strong), module(content(), position(), None))
    shifted = module(content(), position(), blocked, strong + 7)
    torch.testing.assert_close(shifted, module(content(), position(), blocked, strong), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", SELF)
def test_who_may_see_nobody_stays_finite(kind: Any) -> None:
    blocked = torch.zeros(Q, Q, dtype=torch.bool)
    blocked[2] = True
    for bias in (None, torch.zeros(1, 1, Q, Q)):
        assert part(kind)(content(), position(), blocked, bias).isfinite().all()


@pytest.mark.parametrize("kind", [*SELF, *CROSS])
def test_dropout_of_weights_is_for_training_only(kind: Any) -> None:
    with fixed_seed():
        module = stir(kind(C, H, 0.5))
    given = (None,) if kind in SELF else (None, memory())
    first, second = (module.train()(content(), position(), *given) for _ in range(2))
    assert not torch.allclose(first, second)
    first, second = (module.eval()(content(), position(), *given) for _ in range(2))
    assert torch.equal(first, second)
