"""How words compete for a region, and whom to believe about it, by numbers computed by hand."""

import math

import pytest
import torch

from dk_detr.modeling import ensemble, with_background, with_objectness, without_background

BASE, NOVEL = torch.tensor([False]), torch.tensor([True])


def log(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers]).log()


def test_background_takes_part_in_the_softmax_and_then_goes() -> None:
    """Logits 0, ln 2 and ln 5 of the background: shares 1/8, 2/8, 5/8."""
    scores = with_background(log(1, 2, 5)).exp()
    torch.testing.assert_close(scores, torch.tensor([[1 / 8, 2 / 8]]))


def test_without_background_the_words_share_one() -> None:
    scores = without_background(log(1, 3)).exp()
    torch.testing.assert_close(scores, torch.tensor([[1 / 4, 3 / 4]]))


@pytest.mark.parametrize(("novel", "by_hand"), [(BASE, 1 / 4 * 1 / 10), (NOVEL, 1 / 2 * 1 / 100)])
def test_each_word_trusts_the_head_that_is_at_home(novel: torch.Tensor, by_hand: float) -> None:
    """Text head 1/8, image head 1/1000, two thirds: (1/8)^⅔ (1/1000)^⅓ for base words, the reverse for novel ones."""
    score = ensemble(log(1 / 8), log(1 / 1000), novel, 2 / 3).exp()
    assert score.item() == pytest.approx(by_hand)


def test_at_one_half_no_word_is_at_home_anywhere() -> None:
    text, image = log(0.2, 0.3, 0.5), log(0.6, 0.3, 0.1)
    novel = torch.tensor([True, False, True])
    torch.testing.assert_close(ensemble(text, image, novel, 0.5), ensemble(image, text, ~novel, 0.5))
    torch.testing.assert_close(ensemble(text, image, novel, 0.5), ensemble(text, image, ~novel, 0.5))


def test_novel_words_are_base_words_with_the_heads_exchanged() -> None:
    text, image, novel = log(0.2, 0.8), log(0.7, 0.3), torch.tensor([True, False])
    torch.testing.assert_close(ensemble(text, image, novel, 0.7), ensemble(image, text, ~novel, 0.7))


@pytest.mark.parametrize(("weight", "head"), [(1.0, 0), (0.0, 1)])
def test_a_head_without_weight_is_not_heard(weight: float, head: int) -> None:
    heads = log(0.2, 0.8), log(0.7, 0.3)
    torch.testing.assert_close(ensemble(*heads, torch.tensor([False, False]), weight), heads[head])


def test_heads_that_are_sure_leave_finite_scores() -> None:
    """Softmax over 0.01: the loser's logit is 200 below the winner's."""
    text = with_background(torch.tensor([[100.0, -100.0, 0.0]]))
    score = ensemble(text, without_background(torch.tensor([[-100.0, 100.0]])), torch.tensor([True, False]), 2 / 3)
    assert bool(score.isfinite().all())


def test_what_is_there_counts_as_much_as_whether_anything_is() -> None:
    """Objectness of logit ln 3 is 3/4; √(1/12 · 3/4) = 1/4."""
    score = with_objectness(log(1 / 12), torch.tensor([math.log(3)])).exp()
    assert score.item() == pytest.approx(1 / 4)
