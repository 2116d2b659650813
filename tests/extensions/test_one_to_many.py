"""One-to-many: further queries from the best proposals, several of which answer for each object.

B images, Q queries, S tokens, C channels.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.extensions import OneToMany
from dk_detr.modeling import InitialQueries
from dk_detr.structures import DETECTION, Predictions, QueryGroup
from tests.model_fixtures import fixed_seed, random, targets_of, tiny_criterion, training_inputs

B, S, C, K = 2, 12, 8, 5
BOXES = [[0.5, 0.4, 0.2, 0.1], [0.3, 0.6, 0.2, 0.4]]
TARGETS = targets_of(([2], BOXES[:1]), ([1, 0], BOXES))


def part(**settings: Any) -> OneToMany:
    with fixed_seed():
        return OneToMany(C, tiny_criterion(), **{"num_queries": 6, "copies": 3, **settings})


def proposals(valid: Tensor | None = None) -> Predictions:
    return Predictions(random(1, B, S, 1), random(1, B, S, 4, seed=1).sigmoid(), valid)


def inputs_of(proposed: Predictions) -> Any:
    detection = QueryGroup(DETECTION, random(B, 4, C), None, random(B, 4, 4).sigmoid(), (DETECTION,), DETECTION)
    return training_inputs(InitialQueries(detection, None, proposed), TARGETS)


def test_queries_start_from_the_best_proposals_the_best_first() -> None:
    proposed = proposals()
    (group,) = part().prepare(inputs_of(proposed)).groups
    for image in range(B):
        order = proposed.logits[0, image, :, 0].argsort(descending=True)[:6]
        assert torch.equal(group.reference[image], proposed.boxes[0, image, order])
    assert not group.reference.requires_grad


def test_only_they_see_one_another_and_they_refine_themselves() -> None:
    (group,) = part().prepare(inputs_of(proposals())).groups
    assert group.attends_to == (group.name,) and group.reference_from == group.name != DETECTION


def test_there_are_no_more_queries_than_tokens_and_padding_counts_for_nothing() -> None:
    valid = torch.ones(B, S, dtype=torch.bool)
    valid[1, 4:] = False
    (group,) = part(num_queries=100).prepare(inputs_of(proposals(valid))).groups
    assert len(group) == S
    assert group.valid.sum(1).tolist() == [S, 4]


@pytest.mark.parametrize("copies", [1, 3])
def test_each_object_is_learned_by_so_many_queries_and_losses_are_their_mean(copies: int) -> None:
    extension, inputs = part(copies=copies), inputs_of(proposals())
    plan = extension.prepare(inputs)
    predictions = Predictions(random(2, B, 6, K), random(2, B, 6, 4, seed=3).sigmoid().requires_grad_())
    losses = extension.supervise(plan, inputs, SimpleNamespace(predictions={plan.groups[0].name: predictions}))
    assert losses.keys() == {"loss_o2m_class", "loss_o2m_l1", "loss_o2m_giou"}
    losses["loss_o2m_l1"].backward()
    learning = predictions.boxes.grad.abs().sum(-1) > 0
    assert learning.sum(-1).tolist() == [[copies, 2 * copies]] * 2
    alike = Predictions(predictions.logits, TARGETS.padded[1][:, :1].expand(2, B, 6, 4) + 0.01)
    one = part(copies=1).supervise(plan, inputs, SimpleNamespace(predictions={plan.groups[0].name: alike}))
    if copies == 1:
        return
    many = extension.supervise(plan, inputs, SimpleNamespace(predictions={plan.groups[0].name: alike}))
    assert many["loss_o2m_l1"] < 2 * one["loss_o2m_l1"], "a mean over the queries that answer, not their sum"
