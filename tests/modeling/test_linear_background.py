"""DETR's classifier: a softmax over words and "no object", at most one word a query. B images, Q queries, K words."""

import math

import pytest
import torch
from torch import Tensor

from dk_detr.modeling import LinearBackground
from tests.model_fixtures import closed_vocabulary, fixed_seed, random, stir, tiny_vocabulary

C, K = 4, 5
NOVEL = torch.zeros(K, dtype=torch.bool)


def part(num_projections: int = 1) -> LinearBackground:
    with fixed_seed():
        return stir(LinearBackground(C, K, num_projections))


def says(logits: list[float]) -> LinearBackground:
    """A classifier that says the same of everything: logits of the words, then of no object."""
    classifier = part()
    torch.nn.init.zeros_(classifier.projections[0].weight)
    classifier.projections[0].bias.data = torch.tensor(logits, dtype=torch.float32)
    return classifier


def confidence(classifier: LinearBackground, text: Tensor | None = None) -> list[float]:
    text = torch.eye(K) if text is None else text
    return classifier.confidence(torch.zeros(1, 1, C), text, torch.eye(K), NOVEL[: len(text)], None)[0, 0].tolist()


def test_logits_are_those_of_the_words_in_their_order_and_last_that_of_no_object() -> None:
    classifier, hidden = part(2), random(2, 2, 3, C)
    for layer, projection in enumerate(classifier.projections):
        wanted = hidden[layer] @ projection.weight.T + projection.bias
        torch.testing.assert_close(classifier(hidden, torch.eye(K))[layer], wanted)
        chosen = classifier(hidden, torch.eye(K)[[3, 0]])[layer]
        torch.testing.assert_close(chosen, wanted[..., [3, 0, K]])


def test_a_query_is_its_likeliest_word_as_likely_as_that_is_beside_all_others_and_no_object() -> None:
    logits = [0.0, 1.0, 3.0, 2.0, -1.0, 2.5]
    total = sum(math.exp(x) for x in logits)
    assert confidence(says(logits)) == pytest.approx([0, 0, math.exp(3.0) / total, 0, 0], rel=1e-5)


def test_a_query_that_most_likely_is_nothing_still_names_its_likeliest_word() -> None:
    """DETR drops "no object" before it looks for the best."""
    total = 4 + math.exp(1) + math.exp(9)
    assert confidence(says([0, 0, 0, 1, 0, 9])) == pytest.approx([0, 0, 0, math.exp(1) / total, 0], rel=1e-4)


def test_what_is_another_word_is_not_one_of_those_asked_for() -> None:
    """A dog is no cat because nobody asks for dogs."""
    logits = [0.0, 1.0, 3.0, 2.0, -1.0, 2.5]
    total = sum(math.exp(x) for x in logits)
    assert confidence(says(logits), torch.eye(K)[[1, 0]]) == [0, 0]
    assert confidence(says(logits), torch.eye(K)[[1, 2]]) == pytest.approx([0, math.exp(3) / total], rel=1e-5)


def test_words_that_were_never_trained_take_no_part() -> None:
    """Their logits are as they were drawn, and would often be above those that learned to say nothing."""
    classifier, novel = says([0.0, 1.0, 3.0, 2.0, -1.0, 2.5]), torch.tensor([False, False, True, False, False])
    total = sum(math.exp(x) for x in (0.0, 1.0, 2.0, -1.0, 2.5))
    trained = torch.eye(K)[~novel]
    found = classifier.confidence(torch.zeros(1, 1, C), torch.eye(K), trained, novel, None)[0, 0].tolist()
    assert found == pytest.approx([0, 0, 0, math.exp(2) / total, 0], rel=1e-5)
    some = classifier.confidence(torch.zeros(1, 1, C), torch.eye(K)[[3, 0]], trained, novel[[3, 0]], None)[0, 0]
    assert some.tolist() == pytest.approx([found[3], found[0]]), "the same, whatever else is asked for"


def test_every_query_has_at_most_one_word() -> None:
    scores = part().confidence(random(3, 7, C), torch.eye(K), torch.eye(K), NOVEL, None)
    assert ((scores > 0).sum(-1) == 1).all() and scores.max() < 1


def test_new_ones_start_like_any_linear_layer() -> None:
    """No word and no object are as likely at first: the loss weighs no object down instead."""
    with fixed_seed():
        projection = LinearBackground(256, 80, 1).projections[0]
    bound = 256**-0.5
    for values in (projection.weight.detach(), projection.bias.detach()):
        assert values.abs().max() <= bound and abs(float(values.mean())) < 0.2 * bound
    assert projection.out_features == 81


def test_it_knows_its_own_words_only() -> None:
    part().check(closed_vocabulary().select(["word 4", "word 1"]))
    with pytest.raises(ValueError, match="knows the 5 words of its training"):
        part().check(tiny_vocabulary())
