"""Names of given boxes: shares by hand, of groups, and of what was never asked."""

import math

import pytest
import torch

from dk_detr.evaluation import NamingEvaluator

NAMES = ("cat", "dog", "star")


def shares(classes: list[list[int]], named: list[list[int]]) -> dict[str, float]:
    evaluator = NamingEvaluator(NAMES, {"star"}, {"novel-unseen": {"dog", "star"}})
    inputs = [{"object_classes": torch.tensor(each, dtype=torch.long)} for each in classes]
    evaluator.process(inputs, [{"named": torch.tensor(each, dtype=torch.long)} for each in named])
    found = evaluator.evaluate()
    assert found is not None
    return found["naming"]


def test_shares_of_objects_by_group() -> None:
    found = shares([[0, 1, 2], [], [2]], [[0, 0, 2], [], [1]])
    assert found == pytest.approx({"top1": 50, "top1-base": 50, "top1-novel": 50, "top1-novel-unseen": 100 / 3})


def test_a_group_without_an_object_has_no_share() -> None:
    found = shares([[0]], [[0]])
    assert found["top1"] == 100.0 and math.isnan(found["top1-novel"])


def test_a_reset_forgets() -> None:
    evaluator = NamingEvaluator(NAMES, (), {})
    evaluator.process([{"object_classes": torch.tensor([0])}], [{"named": torch.tensor([1])}])
    evaluator.reset()
    evaluator.process([{"object_classes": torch.tensor([1])}], [{"named": torch.tensor([1])}])
    assert evaluator.evaluate() == {"naming": {"top1": 100.0}}
