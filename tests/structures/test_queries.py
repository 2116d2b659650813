"""Query groups: who sees whom, who follows whom, and which sets are refused.

B images, Q queries, C channels.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dk_detr.structures import QueryGroup, QuerySet

YES, NO = True, False  # blocked, not blocked


def group(
    name: str,
    size: int,
    attends_to=None,
    reference_from="itself",
    blocked: Tensor | None = None,
    images: int = 2,
    valid: Tensor | None = None,
) -> QueryGroup:
    """A group of queries that can be told apart, attending to and refining itself unless told otherwise."""
    numbers = torch.rand(images, size, 8, generator=torch.Generator().manual_seed(len(name) + size))
    reference_from = name if reference_from == "itself" else reference_from
    attends_to = (name,) if attends_to is None else attends_to
    return QueryGroup(name, numbers, numbers + 1, numbers[..., :4], attends_to, reference_from, blocked, valid)


def test_a_group_alone_has_no_bars() -> None:
    assert QuerySet((group("detection", 3),)).attention_mask() is None


def test_each_group_sees_only_what_it_attends_to() -> None:
    noise = group("noise", 1, attends_to=("noise", "detection"))
    queries = QuerySet((group("detection", 2), group("auxiliary", 1), noise))
    assert queries.attention_mask().tolist() == [
        [NO, NO, YES, YES],
        [NO, NO, YES, YES],
        [YES, YES, NO, YES],
        [NO, NO, YES, NO],
    ]


def test_a_group_that_attends_to_another_but_not_itself_is_blind_to_itself() -> None:
    queries = QuerySet((group("detection", 1), group("auxiliary", 2, attends_to=("detection",))))
    assert queries.attention_mask().tolist() == [[NO, YES, YES], [NO, YES, YES], [NO, YES, YES]]


def test_an_inner_bar_adds_to_the_outer_one() -> None:
    inner = torch.tensor([[NO, YES], [YES, NO]])
    queries = QuerySet((group("detection", 1), group("noise", 2, blocked=inner)))
    assert queries.attention_mask().tolist() == [[NO, YES, YES], [YES, NO, YES], [YES, YES, NO]]


def test_an_inner_mask_opens_nothing_that_is_barred() -> None:
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    queries = QuerySet((group("detection", 1), group("noise", 2, attends_to=("detection",), blocked=nothing)))
    assert queries.attention_mask()[1:].tolist() == [[NO, YES, YES], [NO, YES, YES]]


def test_an_inner_bar_of_its_own_for_each_image_gives_a_mask_for_each_image() -> None:
    inner = torch.tensor([[[NO, YES], [YES, NO]], [[NO, NO], [NO, NO]]])
    flat = torch.tensor([[NO, YES], [NO, NO]])
    queries = QuerySet((group("detection", 1), group("a", 2, blocked=inner), group("b", 2, blocked=flat)))
    mask = queries.attention_mask()
    assert mask.shape == (2, 5, 5)
    assert mask[0, 1:3, 1:3].tolist() == [[NO, YES], [YES, NO]]
    assert not mask[1, 1:3, 1:3].any()
    assert mask[:, 3:, 3:].tolist() == [flat.tolist()] * 2
    assert mask[:, 0, 1:].all() and mask[:, 1:3, 3:].all() and mask[:, 3:, :3].all()


def test_detection_queries_may_have_bars_among_themselves() -> None:
    inner = torch.tensor([[NO, YES], [NO, NO]])
    assert QuerySet((group("detection", 2, blocked=inner),)).attention_mask().tolist() == inner.tolist()


def test_a_query_that_only_fills_up_is_seen_by_nobody_but_itself() -> None:
    valid = torch.tensor([[True, True, False], [True, True, True]])
    mask = QuerySet((group("detection", 3, valid=valid),)).attention_mask()
    assert mask.tolist() == [[[NO, NO, YES], [NO, NO, YES], [NO, NO, NO]], [[NO] * 3] * 3]


def test_what_fills_up_and_what_is_barred_add_up_and_leave_other_groups_alone() -> None:
    apart, valid = torch.tensor([[NO, YES], [YES, NO]]), torch.tensor([[True, False], [True, True]])
    queries = QuerySet((group("detection", 1), group("noise", 2, ("noise", "detection"), blocked=apart, valid=valid)))
    mask = queries.attention_mask()
    assert mask[0].tolist() == mask[1].tolist() == [[NO, YES, YES], [NO, NO, YES], [NO, YES, NO]]
    together = QuerySet((group("detection", 1), group("noise", 2, ("noise", "detection"), valid=valid)))
    assert together.attention_mask()[:, 1:, 1:].tolist() == [[[NO, YES], [NO, NO]], [[NO, NO], [NO, NO]]]


def test_making_the_mask_leaves_the_groups_as_they_are() -> None:
    inner = torch.tensor([[NO, YES], [YES, NO]])
    queries = QuerySet((group("detection", 1), group("noise", 2, blocked=inner)))
    queries.attention_mask()
    assert inner.tolist() == [[NO, YES], [YES, NO]]


def test_groups_lie_side_by_side_on_the_query_axis() -> None:
    a, b = group("detection", 2), group("auxiliary", 3)
    queries = QuerySet((a, b))
    assert queries.span("detection") == slice(0, 2) and queries.span("auxiliary") == slice(2, 5)
    for whole, parts in (
        (queries.content, (a.content, b.content)),
        (queries.position, (a.position, b.position)),
        (queries.reference, (a.reference, b.reference)),
    ):
        assert torch.equal(whole, torch.cat(parts, dim=1))
    assert queries["auxiliary"] is b and len(b) == 3


def test_positions_and_references_are_absent_together() -> None:
    without = QueryGroup("detection", torch.zeros(1, 2, 8), None, None, ("detection",), None)
    assert QuerySet((without,)).position is None and QuerySet((without,)).reference is None
    with pytest.raises(ValueError, match="Either all query groups .* or none"):
        _ = QuerySet((without, group("auxiliary", 2, images=1))).position


def test_a_group_refines_itself_follows_another_or_stays() -> None:
    follows, stays = group("follows", 2, reference_from="detection"), group("stays", 2, reference_from=None)
    queries = QuerySet((group("detection", 2), group("itself", 1), follows, stays))
    current = torch.arange(7.0).view(1, 7, 1).expand(1, 7, 4)
    refined = current + 100
    following = queries.next_references(refined, current)
    assert following[0, :, 0].tolist() == [100, 101, 102, 100, 101, 5, 6]
    assert following.shape == (1, 7, 4)


def test_points_become_boxes_and_one_that_stays_keeps_its_place_and_takes_its_own_size() -> None:
    follows, stays = group("follows", 2, reference_from="detection"), group("stays", 2, reference_from=None)
    groups = (group("detection", 2), follows, stays)
    queries = QuerySet(tuple(replace(one, reference=one.reference[..., :2]) for one in groups))
    assert queries.reference.shape == (2, 6, 2)
    refined = torch.arange(24.0).view(1, 6, 4)
    following = queries.next_references(refined, -torch.ones(1, 6, 2))
    assert following[0, :2].tolist() == following[0, 2:4].tolist() == refined[0, :2].tolist()
    assert following[0, 4:].tolist() == [[-1, -1, 18, 19], [-1, -1, 22, 23]]


def test_points_and_boxes_in_one_set_are_refused() -> None:
    boxes = group("auxiliary", 2)
    with pytest.raises(ValueError, match=r"points, or all from boxes; \['detection', 'auxiliary'\] mix them"):
        QuerySet((replace(group("detection", 2), reference=boxes.reference[..., :2]), boxes))


def test_a_set_starts_with_the_detection_queries_and_names_each_group_once() -> None:
    auxiliary, detection = group("auxiliary", 2), group("detection", 2)
    for groups in ((), (auxiliary,), (auxiliary, detection), (detection, detection)):
        with pytest.raises(ValueError, match='starts with the group "detection"'):
            QuerySet(groups)


def test_detection_queries_that_see_others_are_refused() -> None:
    with pytest.raises(ValueError, match="themselves only, got attends_to=.*auxiliary"):
        QuerySet((group("detection", 2, attends_to=("detection", "auxiliary")), group("auxiliary", 2)))


def test_detection_queries_that_follow_others_are_refused() -> None:
    """What other queries learn would reach them through these boxes."""
    with pytest.raises(ValueError, match="themselves only, got .* reference_from='auxiliary'"):
        QuerySet((group("detection", 2, reference_from="auxiliary"), group("auxiliary", 2)))


def test_a_group_cannot_follow_one_of_another_size() -> None:
    with pytest.raises(ValueError, match='"auxiliary" follows "detection".*another size'):
        QuerySet((group("detection", 2), group("auxiliary", 3, reference_from="detection")))


def test_a_group_cannot_follow_or_attend_to_one_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="guide"):
        QuerySet((group("detection", 2), group("auxiliary", 2, reference_from="guide")))
    with pytest.raises(KeyError, match="guide"):
        QuerySet((group("detection", 2), group("auxiliary", 2, attends_to=("guide",)))).attention_mask()
    with pytest.raises(KeyError, match="guide.*detect"):
        _ = QuerySet((group("detection", 2),))["guide"]
