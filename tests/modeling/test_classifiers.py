"""Classifiers: angles with words, over a temperature, in full precision; or a logit of its own for each word.

ViLD's, by numbers computed by hand, are in test_vild_classifiers.py.
"""

import pytest
import torch
from torch.nn import functional as F

from dk_detr.language import CLOSED
from dk_detr.modeling import CLASSIFIERS, Classifier, CosineText, Linear
from dk_detr.structures import Vocabulary
from tests.model_fixtures import closed_vocabulary, random, stir, tiny_vocabulary

TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def identity(**settings: float) -> CosineText:
    """A classifier of one layer that projects nothing."""
    classifier = CosineText(2, 2, num_projections=1, **settings)
    torch.nn.init.eye_(classifier.projections[0].weight)
    torch.nn.init.zeros_(classifier.projections[0].bias)
    return classifier


def test_logits_are_cosines_over_the_temperature() -> None:
    logits = identity(temperature=0.05)(torch.tensor([[[[3.0, 4.0]]]]), TEXT)
    torch.testing.assert_close(logits, torch.tensor([[[[12.0, 16.0, 20.0]]]]))


def test_the_length_of_a_feature_does_not_matter() -> None:
    classifier, hidden = identity(), random(1, 2, 3, 2)
    torch.testing.assert_close(classifier(hidden * 7, TEXT), classifier(hidden, TEXT))


def test_a_feature_of_zero_length_is_like_no_word() -> None:
    assert identity()(torch.zeros(1, 1, 1, 2), TEXT).tolist() == [[[[0.0, 0.0, 0.0]]]]


def test_a_bias_is_added_to_all_logits_and_is_not_learned() -> None:
    hidden = random(1, 2, 3, 2)
    biased = identity(logit_bias=-4.6)
    torch.testing.assert_close(biased(hidden, TEXT), identity()(hidden, TEXT) - 4.6)
    assert len(list(biased.parameters())) == 2


def of_five_words(name: str, num_projections: int) -> tuple[Classifier, torch.Tensor]:
    """A classifier of each sort, and words for it."""
    text = (closed_vocabulary() if name in CLOSED else tiny_vocabulary()).embeddings
    return stir(CLASSIFIERS[name](4, text.shape[1], num_projections)), text


def num_columns(classifier: Classifier) -> int:
    """Of the logits of five words."""
    return 6 if classifier.activation == "softmax" else 5


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_each_layer_has_its_own_projection_and_minus_one_is_the_last(name: str) -> None:
    (classifier, text), hidden = of_five_words(name, 3), random(3, 2, 5, 4)
    logits = classifier(hidden, text)
    for layer in range(3):
        alone = classifier.score(classifier.project(hidden[layer], layer), text)
        torch.testing.assert_close(logits[layer], alone)
    assert torch.equal(classifier.project(hidden[2], -1), classifier.project(hidden[2], 2))
    assert not torch.allclose(classifier.project(hidden[0], 0), classifier.project(hidden[0], 1))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_shared_projection_serves_all_layers(name: str) -> None:
    (classifier, text), hidden = of_five_words(name, 1), random(1, 2, 5, 4)
    assert len(classifier.projections) == 1
    logits = classifier(hidden.expand(3, -1, -1, -1), text)
    assert logits.shape == (3, 2, 5, num_columns(classifier))
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert torch.equal(classifier.project(hidden[0], -1), classifier.project(hidden[0], 2))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_permuting_the_vocabulary_permutes_the_logits(name: str) -> None:
    (classifier, text), hidden = of_five_words(name, 1), random(1, 2, 5, 4)
    order = [3, 0, 4, 1, 2]
    columns = [*order, *range(5, num_columns(classifier))]  # the background stays the last
    torch.testing.assert_close(classifier(hidden, text[order]), classifier(hidden, text)[..., columns])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_permuting_the_vocabulary_permutes_the_confidence(name: str) -> None:
    (classifier, text), hidden, objectness = of_five_words(name, 1), random(2, 5, 4), random(2, 5)
    order, novel = [3, 0, 4, 1, 2], torch.tensor([False, True, False, False, True])
    confidence = classifier.confidence(hidden, text, text[~novel], novel, objectness)
    assert confidence.shape == (2, 5, 5) and bool((confidence >= 0).all() and (confidence <= 1).all())
    other = classifier.confidence(hidden, text[order], text[~novel], novel[order], objectness)
    torch.testing.assert_close(other, confidence[..., order])


@pytest.mark.parametrize("name", ["CosineText", "Linear"])
def test_for_a_sigmoid_each_word_is_judged_by_itself_and_nothing_else_counts(name: str) -> None:
    (classifier, text), hidden = of_five_words(name, 2), random(2, 5, 4)
    wanted = classifier.score(classifier.project(hidden, 1), text).sigmoid()
    assert torch.equal(classifier.confidence(hidden, text, text[:1], torch.ones(5, dtype=torch.bool), None), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_logits_are_not_rounded_to_half(dtype: torch.dtype) -> None:
    classifier, projected = CosineText(4, 16, num_projections=1), random(3, 16).to(dtype)
    full = classifier.score(projected.float(), tiny_vocabulary().embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier.score(projected, tiny_vocabulary().embeddings)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, full)


def test_linear_logits_are_those_of_the_words_asked_for() -> None:
    classifier, hidden = stir(Linear(4, 5, num_projections=1)), random(1, 2, 3, 4)
    logits = hidden @ classifier.projections[0].weight.T + classifier.projections[0].bias
    torch.testing.assert_close(classifier(hidden, torch.eye(5)), logits)
    torch.testing.assert_close(classifier(hidden, torch.eye(5)[[3, 0]]), logits[..., [3, 0]])


def test_a_new_linear_classifier_expects_one_object_in_a_hundred_queries() -> None:
    logits = Linear(4, 5, num_projections=2)(torch.zeros(2, 1, 3, 4), torch.eye(5))
    torch.testing.assert_close(logits.sigmoid(), torch.full((2, 1, 3, 5), 0.01))


def test_linear_logits_come_in_full_precision() -> None:
    assert Linear(4, 5, 1).score(torch.zeros(2, 5, dtype=torch.bfloat16), torch.eye(5)).dtype == torch.float32


def test_a_closed_classifier_takes_any_selection_of_its_own_words() -> None:
    classifier, own = Linear(4, 5, 1), closed_vocabulary()
    classifier.check(own)
    classifier.check(own.select(["word 4", "word 1"]))


OTHER_ROWS = {
    "another number": torch.eye(6),
    "text of the same width": torch.nn.functional.normalize(random(5, 5), dim=1),
    "opposites": -torch.eye(5),
}


@pytest.mark.parametrize("rows", OTHER_ROWS.values(), ids=OTHER_ROWS.keys())
def test_a_closed_classifier_refuses_words_of_any_other_kind(rows: torch.Tensor) -> None:
    names = tuple(f"thing {n}" for n in range(len(rows)))
    other = Vocabulary(names, rows, torch.zeros(len(rows), dtype=torch.bool))
    with pytest.raises(ValueError, match=r'knows the 5 words.*"Linear"\) and no others.*train with "CosineText"'):
        Linear(4, 5, 1).check(other)


def test_an_open_classifier_refuses_words_of_another_width() -> None:
    with pytest.raises(ValueError, match="width 16; the vocabulary .*width 5.* another text encoder"):
        CosineText(4, 16, 1).check(closed_vocabulary())


@pytest.mark.parametrize(("setting", "lowered"), [("novel_objectness", [1, 2]), ("base_objectness", [0])])
def test_objectness_lowers_the_scores_of_its_words_by_its_power_and_leaves_others_alone(
    setting: str, lowered: list[int]
) -> None:
    plain, helped = CosineText(4, 8, 1), CosineText(4, 8, 1, **{setting: 0.25})
    helped.load_state_dict(plain.state_dict())
    hidden, text, objectness = random(2, 5, 4), F.normalize(random(3, 8, seed=1), dim=1), random(2, 5, seed=2)
    given = (hidden, text, text[:1], torch.tensor([False, True, True]))
    scores, found = plain.confidence(*given, objectness), helped.confidence(*given, objectness)
    others = sorted({0, 1, 2} - {*lowered})
    assert torch.equal(found[..., others], scores[..., others])
    expected = scores[..., lowered] * objectness.sigmoid()[..., None] ** 0.25
    torch.testing.assert_close(found[..., lowered], expected)
    nothing = objectness.masked_fill(objectness > 0, -torch.inf)
    assert not helped.confidence(*given, nothing)[..., lowered][objectness > 0].any()


def test_of_two_words_for_one_object_the_worse_gets_less_and_a_single_word_keeps_its_score() -> None:
    plain, sharing = CosineText(4, 8, 1), CosineText(4, 8, 1, word_share=1.0)
    sharing.load_state_dict(plain.state_dict())
    hidden, text = random(2, 5, 4), F.normalize(random(3, 8, seed=1), dim=1)
    novel = torch.tensor([False, True, True])
    scores, shared = (one.confidence(hidden, text, text, novel, None) for one in (plain, sharing))
    share = plain.score(plain.project(hidden, -1), text).softmax(-1)
    torch.testing.assert_close(shared, scores * share)
    assert torch.equal(shared.argmax(-1), scores.argmax(-1))
    alone = sharing.confidence(hidden, text[:1], text, novel[:1], None)
    torch.testing.assert_close(alone, scores[..., :1])
