"""CosineText: angles with words, over a temperature, in full precision."""

import pytest
import torch

from dk_detr.modeling import CosineText
from tests.model_fixtures import random, tiny_vocabulary

TEXT = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])


def identity(**settings: float) -> CosineText:
    """A classifier of one layer that projects nothing."""
    classifier = CosineText(2, 2, num_layers=1, **settings)
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


def test_each_layer_has_its_own_projection_and_minus_one_is_the_last() -> None:
    classifier, hidden, text = CosineText(4, 16, num_layers=3), random(3, 2, 5, 4), tiny_vocabulary().embeddings
    logits = classifier(hidden, text)
    for layer in range(3):
        alone = classifier.score(classifier.project(hidden[layer], layer), text)
        torch.testing.assert_close(logits[layer], alone)
    assert torch.equal(classifier.project(hidden[2], -1), classifier.project(hidden[2], 2))
    assert not torch.allclose(classifier.project(hidden[0], 0), classifier.project(hidden[0], 1))


def test_permuting_the_vocabulary_permutes_the_logits() -> None:
    classifier, hidden, text = CosineText(4, 16, num_layers=1), random(1, 2, 5, 4), tiny_vocabulary().embeddings
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(classifier(hidden, text[order]), classifier(hidden, text)[..., order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_logits_are_not_rounded_to_half(dtype: torch.dtype) -> None:
    classifier, projected = CosineText(4, 16, num_layers=1), random(3, 16).to(dtype)
    full = classifier.score(projected.float(), tiny_vocabulary().embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier.score(projected, tiny_vocabulary().embeddings)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, full)
