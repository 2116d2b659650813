"""Denoising: objects with noise as queries. How many, where, how far off, who sees whom, and what they answer for.

B images, M objects of the fullest image, G groups, N noisy queries, K words.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dk_detr.extensions import BoxDenoising, ContrastiveDenoising, Denoising
from dk_detr.layers import to_xyxy
from dk_detr.modeling import InitialQueries
from dk_detr.structures import Assignment, Predictions, QueryGroup, QuerySet, Targets
from tests.model_fixtures import fixed_seed, random, targets_of, tiny_criterion, training_inputs

C, K = 8, 5
LIKE = torch.zeros(2, 1, C)
BOXES = [[0.5, 0.4, 0.2, 0.1], [0.3, 0.6, 0.2, 0.4], [0.6, 0.5, 0.1, 0.1]]
UNEQUAL = targets_of(([2], BOXES[:1]), ([1, 0, 4], BOXES))
EQUAL = targets_of(([2, 3], BOXES[:2]), ([1, 0], BOXES[1:]))
ONE_EMPTY = targets_of(([], []), ([1, 4], BOXES[:2]))
BATCHES = {"unequal": UNEQUAL, "equal": EQUAL, "one empty": ONE_EMPTY}
each_batch = pytest.mark.parametrize("targets", BATCHES.values(), ids=BATCHES.keys())
KINDS: dict[str, tuple[type[Denoising], dict[str, Any]]] = {
    "DN": (Denoising, {"groups": 3}),
    "CDN": (ContrastiveDenoising, {"queries": 10}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def dice() -> Iterator[None]:
    """The same for each test."""
    with fixed_seed():
        yield


@dataclass
class Made:
    """What a step of denoising prepared: its one group, which of the queries stand for an object, and the rest."""

    group: QueryGroup
    valid: Tensor
    assignment: Assignment
    num_groups: int


def part(kind: str, **settings: Any) -> Denoising:
    made, usual = KINDS[kind]
    with fixed_seed():
        return made(C, K, tiny_criterion(), **{**usual, **settings})


def no_position(boxes: Tensor, dtype: torch.dtype) -> None:
    """Of a decoder that derives it from the boxes."""


def prepare(extension: Denoising, targets: Targets, like: Tensor = LIKE, position_of: Any = no_position):
    initial = InitialQueries(QueryGroup("detection", like, None, None, ("detection",), "detection"))
    return extension.prepare(training_inputs(initial, targets, position_of=position_of))


def make(extension: Denoising, targets: Targets, like: Tensor = LIKE, position_of: Any = no_position) -> Made:
    plan = prepare(extension, targets, like, position_of)
    (group,) = plan.groups
    valid = torch.ones(group.content.shape[:2], dtype=torch.bool) if group.valid is None else group.valid
    return Made(group, valid, plan.assignment, plan.num_groups)


def many(targets: Targets, times: int = 400) -> Targets:
    """The same images many times over, for what happens at times."""
    return Targets(targets.labels * times, targets.boxes * times)


def seats(kind: str, most: int, num_groups: int) -> list[tuple[int, bool, int]]:
    """(group, negative, object) of each noisy query: the objects of a group in order, then their negatives."""
    halves = (False, True) if kind == "CDN" else (False,)
    return [(group, negative, thing) for group in range(num_groups) for negative in halves for thing in range(most)]


# ---- how many, and what they answer for ----


@each_kind
@each_batch
def test_queries_are_groups_of_the_objects_of_the_fullest_image(kind: str, targets: Targets) -> None:
    noisy, most = make(part(kind), targets), max(targets.counts)
    wanted = {"DN": 3, "CDN": 10 // most}[kind]
    assert noisy.num_groups == wanted
    layout = seats(kind, most, wanted)
    assert noisy.group.content.shape == (2, len(layout), C) and noisy.group.reference.shape == (2, len(layout), 4)
    valid = [[thing < count for _, _, thing in layout] for count in targets.counts]
    assert noisy.valid.tolist() == valid


@each_kind
@each_batch
def test_positives_answer_for_their_own_object_and_negatives_for_nothing(kind: str, targets: Targets) -> None:
    noisy = make(part(kind), targets)
    wanted = {
        (image, query, thing)
        for image, count in enumerate(targets.counts)
        for query, (_, negative, thing) in enumerate(seats(kind, max(targets.counts), noisy.num_groups))
        if thing < count and not negative
    }
    given = noisy.assignment
    found = list(zip(given.image.tolist(), given.query.tolist(), given.target.tolist()))
    assert set(found) == wanted and len(found) == len(wanted) == sum(targets.counts) * noisy.num_groups
    assert not given.layer.any()


@each_kind
@each_batch
def test_without_noise_queries_are_the_objects(kind: str, targets: Targets) -> None:
    denoising = part(kind, box_noise=0.0, label_noise=0.0)
    noisy = make(denoising, targets)
    for image, (labels, boxes) in enumerate(zip(targets.labels, targets.boxes)):
        for query, (_, _, thing) in enumerate(seats(kind, max(targets.counts), noisy.num_groups)):
            if thing < len(labels):
                torch.testing.assert_close(noisy.group.reference[image, query], boxes[thing])
                assert torch.equal(noisy.group.content[image, query], denoising.content.weight[labels[thing]])


@pytest.mark.parametrize(("most", "groups"), [(1, 100), (3, 33), (7, 14), (60, 1), (100, 1), (101, 1), (500, 1)])
def test_contrastive_groups_fill_up_a_number_of_queries(most: int, groups: int) -> None:
    """200 in all of DINO's 100, positive and negative, and at least a group."""
    denoising = part("CDN", queries=100)
    noisy = make(denoising, targets_of(([0] * most, BOXES[:1] * most)), LIKE[:1])
    assert noisy.num_groups == groups and len(noisy.group) == 2 * most * groups


def test_the_number_of_groups_of_dn_does_not_depend_on_the_objects() -> None:
    for most in (1, 40):
        assert make(part("DN", groups=5), targets_of(([0] * most, BOXES[:1] * most)), LIKE[:1]).num_groups == 5


@each_kind
def test_a_batch_without_objects_adds_no_group(kind: str) -> None:
    plan = prepare(part(kind), targets_of(([], []), ([], [])))
    assert plan.groups == () and plan.assignment is None


@each_kind
def test_positions_come_from_the_noisy_boxes_by_the_rule_of_the_detection_queries(kind: str) -> None:
    seen: list[Tensor] = []

    def position_of(boxes: Tensor, dtype: torch.dtype) -> Tensor:
        seen.append(boxes)
        return boxes.repeat(1, 1, 2).to(dtype)

    noisy = make(part(kind), UNEQUAL, LIKE.bfloat16(), position_of)
    assert torch.equal(seen[0], noisy.group.reference)
    assert torch.equal(noisy.group.position, seen[0].repeat(1, 1, 2).bfloat16())
    assert noisy.group.content.dtype == torch.bfloat16 and noisy.group.reference.dtype == torch.float32


# ---- who sees whom ----


@each_kind
@each_batch
def test_no_group_sees_another_and_nobody_sees_what_only_fills_up(kind: str, targets: Targets) -> None:
    noisy = make(part(kind), targets)
    detect = QueryGroup("detection", random(2, 4, C), None, random(2, 4, 4).sigmoid(), ("detection",), "detection")
    blocked = QuerySet((detect, noisy.group)).attention_mask()
    blocked = blocked.expand(2, -1, -1) if blocked.ndim == 2 else blocked
    layout = seats(kind, max(targets.counts), noisy.num_groups)
    for image, count in enumerate(targets.counts):
        for row in range(4 + len(layout)):
            for column in range(4 + len(layout)):
                if column < 4:
                    free = True  # all see the detection queries
                elif row < 4:
                    free = False  # who see none of the noisy ones
                else:
                    (group, _, _), (other, _, thing) = layout[row - 4], layout[column - 4]
                    free = row == column or (group == other and thing < count)
                assert bool(blocked[image, row, column]) is not free, (image, row, column)


@each_kind
def test_images_with_equally_many_objects_share_one_mask(kind: str) -> None:
    assert make(part(kind), EQUAL).group.inner_mask().ndim == 2
    assert make(part(kind), UNEQUAL).group.inner_mask().ndim == 3


@each_kind
def test_noisy_queries_refine_themselves(kind: str) -> None:
    group = make(part(kind), UNEQUAL).group
    assert group.name == group.reference_from == "denoising" and group.attends_to == ("denoising", "detection")


# ---- how far off ----


def moves(noisy: Made, targets: Targets, most: int, negative: bool) -> tuple[Tensor, Tensor]:
    """Noisy boxes and those of their objects, (…, 4) cxcywh, of all real queries of one half."""
    place = torch.arange(len(noisy.group))
    half = (place // most % 2 == 1) == negative
    boxes = targets.padded[1][:, place % most]
    keep = noisy.valid & half
    return noisy.group.reference[keep], boxes[keep]


@pytest.mark.parametrize("noise", [0.4, 0.8])
def test_dn_moves_centres_by_a_share_of_half_the_sides_and_changes_sides_by_a_share(noise: float) -> None:
    noisy = make(part("DN", box_noise=noise, groups=2), many(UNEQUAL), LIKE.repeat(400, 1, 1))
    boxes = many(UNEQUAL).padded[1].repeat(1, 2, 1)[noisy.valid]
    found = noisy.group.reference[noisy.valid]
    sides = boxes[:, 2:]
    center = (found[:, :2] - boxes[:, :2]) / sides
    side = (found[:, 2:] - sides) / sides
    for share, most in ((center, noise / 2), (side, noise)):
        assert share.abs().max() <= most + 1e-4
        assert share.min() < -0.95 * most and share.max() > 0.95 * most, "it reaches as far as it may"
        assert (share.mean(0).abs() < 0.06 * most).all()
        torch.testing.assert_close(share.std(0), torch.full((2,), most / 3**0.5), rtol=0.06, atol=0)
    correlation = torch.corrcoef(torch.cat([center, side], dim=1).T) - torch.eye(4)
    assert correlation.abs().max() < 0.1, "every number is moved by itself"


def shares(noisy: Made, targets: Targets, most: int, negative: bool) -> Tensor:
    """(…, 4) how far the corners moved, in sides of the object: x, y, x, y."""
    found, boxes = moves(noisy, targets, most, negative)
    return (to_xyxy(found) - to_xyxy(boxes)) / boxes[:, 2:].repeat(1, 2)


@pytest.mark.parametrize("noise", [1.0, 0.4])
def test_cdn_moves_corners_of_positives_by_up_to_half_a_side_and_of_negatives_by_more(noise: float) -> None:
    """Up to the noise · half a side; beyond it, up to twice that; before anything is cut off."""
    targets = targets_of(([0], [[0.5, 0.5, 0.2, 0.3]]))
    boxes = targets.padded[1].expand(-1, 4000, -1)
    negative = torch.arange(4000) >= 2000
    corners = to_xyxy(part("CDN", box_noise=noise).noisy_boxes(boxes, negative)) - to_xyxy(boxes)
    share = (corners / boxes[..., 2:].repeat(1, 1, 2))[0]
    for half, low, high in ((~negative, 0.0, noise / 2), (negative, noise / 2, noise)):
        moved = share[half]
        assert moved.abs().min() >= low - 1e-5 and moved.abs().max() <= high + 1e-5
        assert moved.abs().max() > high - 0.02 * noise and moved.abs().min() < low + 0.02 * noise
        assert ((moved > 0).float().mean(0) - 0.5).abs().max() < 0.05, "both ways equally often"
        torch.testing.assert_close(moved.abs().mean(0), torch.full((4,), (low + high) / 2), rtol=0.06, atol=0)


def test_cdn_puts_positives_first_and_negatives_second_in_each_group() -> None:
    targets = many(targets_of(([0, 1], [[0.5, 0.5, 0.2, 0.3], [0.4, 0.5, 0.3, 0.2]])), 50)
    noisy = make(part("CDN", box_noise=0.5, queries=8), targets, LIKE.repeat(25, 1, 1))
    positive, negative = (shares(noisy, targets, 2, half) for half in (False, True))
    assert len(positive) == len(negative) == 50 * 2 * 4
    assert positive.abs().max() <= 0.25 + 1e-4 and negative.abs().min() >= 0.25 - 1e-4
    assert negative.abs().max() > 0.4


@each_kind
def test_noisy_boxes_stay_within_the_image_and_have_finite_logits(kind: str) -> None:
    targets = many(targets_of(([0, 1], [[0.05, 0.95, 0.1, 0.1], [0.5, 0.5, 1.0, 1.0]]), ([2], [[0.0, 1.0, 1e-6, 0.0]])))
    noisy = make(part(kind, box_noise=1.0), targets, LIKE.repeat(400, 1, 1))
    assert noisy.group.reference.min() > 0 and noisy.group.reference.max() < 1
    assert noisy.group.reference.logit().isfinite().all()
    if kind == "CDN":  # corners are cut, before they become boxes
        found, _ = moves(noisy, targets, 2, negative=False)
        corners = to_xyxy(found)
        assert corners.min() > -2e-3 and corners.max() < 1 + 2e-3


@each_kind
def test_the_noise_is_new_at_every_step_and_for_every_group(kind: str) -> None:
    denoising = part(kind)
    first, second = make(denoising, EQUAL).group.reference, make(denoising, EQUAL).group.reference
    assert not torch.isclose(first, second).all(-1).any()
    size = len(first[0]) // make(denoising, EQUAL).num_groups
    assert not torch.isclose(first[:, :size], first[:, size : 2 * size]).all(-1).any()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.25, 1.0])
@each_kind
def test_a_share_of_the_labels_becomes_any_word(kind: str, share: float) -> None:
    """A fifth of the flipped find back to their own of five words."""
    labels = part(kind, label_noise=share).noisy_labels(torch.full((100, 200), 3))
    frequency = torch.bincount(labels.flatten(), minlength=K) / labels.numel()
    wanted = torch.full((K,), share / K)
    wanted[3] += 1 - share
    torch.testing.assert_close(frequency, wanted, atol=0.01, rtol=0)


@each_kind
def test_labels_are_flipped_in_both_halves_and_say_what_the_queries_know(kind: str) -> None:
    denoising, targets = part(kind, label_noise=0.5), many(targets_of(([3, 3], BOXES[:2])))
    noisy = make(denoising, targets, LIKE[:1].expand(400, -1, -1))
    known = torch.cdist(noisy.group.content, denoising.content.weight[None]).argmin(-1)
    assert torch.equal(denoising.content(known), noisy.group.content)
    for half in {"DN": [slice(0, 2)], "CDN": [slice(0, 2), slice(2, 4)]}[kind]:
        assert abs(float((known[:, half] != 3).float().mean()) - 0.5 * 4 / 5) < 0.06


@each_kind
def test_targets_are_left_alone_and_boxes_carry_no_gradient(kind: str) -> None:
    before = [x.clone() for x in (*UNEQUAL.labels, *UNEQUAL.boxes)]
    noisy = make(part(kind, label_noise=1.0), UNEQUAL)
    assert all(torch.equal(old, new) for old, new in zip(before, (*UNEQUAL.labels, *UNEQUAL.boxes)))
    assert not noisy.group.reference.requires_grad and noisy.group.content.requires_grad


def test_each_word_has_a_content_of_its_own() -> None:
    for kind in KINDS:
        assert part(kind).content.weight.shape == (K, C)


# ---- of boxes alone ----


def test_queries_that_denoise_boxes_alone_know_nothing_of_the_labels() -> None:
    with fixed_seed():
        denoising = BoxDenoising(C, tiny_criterion(), groups=3)
    nn.init.normal_(denoising.content.weight)
    content = make(denoising, UNEQUAL).group.content
    assert torch.equal(content, denoising.content.weight[0].expand_as(content))


def test_they_start_from_noisy_boxes_of_every_object_as_those_of_dn_do() -> None:
    with fixed_seed():
        denoising = BoxDenoising(C, tiny_criterion(), groups=3, box_noise=0.2)
    alone, usual = make(denoising, UNEQUAL), make(part("DN", groups=3), UNEQUAL)
    assert torch.equal(alone.valid, usual.valid)
    for name in ("image", "query", "target"):
        assert torch.equal(getattr(alone.assignment, name), getattr(usual.assignment, name))
    offset = (alone.group.reference - UNEQUAL.padded[1].repeat(1, 3, 1))[alone.valid].abs()
    assert 0 < offset.max() <= 0.2 * max(max(box) for box in BOXES)


def test_they_learn_boxes_and_no_words() -> None:
    with fixed_seed():
        denoising = BoxDenoising(C, tiny_criterion(), groups=3)
    plan, inputs = prepare(denoising, UNEQUAL), training_inputs(
        InitialQueries(QueryGroup("detection", LIKE, None, None, ("detection",), "detection")), UNEQUAL
    )
    number = len(plan.groups[0])
    logits, boxes = random(1, 2, number, K).requires_grad_(), random(1, 2, number, 4, seed=1).sigmoid().requires_grad_()
    outputs = SimpleNamespace(predictions={"denoising": Predictions(logits, boxes, plan.groups[0].valid)})
    losses = denoising.supervise(plan, inputs, outputs)
    assert losses.keys() == {"loss_dn_l1", "loss_dn_giou"} and all(loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert logits.grad is None and boxes.grad.any()
