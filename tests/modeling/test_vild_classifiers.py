"""The classifiers of ViLD by numbers computed by hand, and who learns from what."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.criterion import CrossEntropy
from dk_detr.modeling import CosineText, CosineTextBackground, CosineTextEnsemble, CosineTextObjectness
from dk_detr.structures import Assignment, Predictions
from tests.model_fixtures import random, targets_of

TEXT = torch.eye(3)[:2]  # two words; the background of `by_hand` is the third axis
FEATURE = torch.tensor([[[0.6, 0.0, 0.8]]])  # cosines 0.6 and 0 with the words, 0.8 with the background
BASE, NOVEL = torch.tensor([False, False]), torch.tensor([True, True])


def by_hand(part: type[CosineText] = CosineTextBackground, **settings: float) -> CosineText:
    """A classifier of temperature 0.2 and one layer that projects nothing; its image projection swaps the words."""
    classifier = part(3, 3, 1, 0.2, **settings)
    projections = [classifier.projections[0], *getattr(classifier, "image_projections", [])]
    with torch.no_grad():
        for projection, matrix in zip(projections, (torch.eye(3), torch.eye(3)[[1, 0, 2]])):
            projection.weight.copy_(matrix)
            projection.bias.zero_()
        if isinstance(classifier, CosineTextBackground):
            classifier.background.copy_(torch.tensor([0.0, 0.0, 7.0]))
    return classifier


def confidence(classifier: CosineText, novel: Tensor = BASE, objectness: float | None = None) -> list[float]:
    given = None if objectness is None else torch.tensor([[objectness]])
    with torch.no_grad():
        return classifier.confidence(FEATURE, TEXT, TEXT, novel, given)[0, 0].tolist()


# e to the logits 0.6/0.2, 0/0.2, 0.8/0.2
WORD, OTHER, NOTHING = math.exp(3), 1.0, math.exp(4)


def test_the_background_is_the_last_column_of_the_logits() -> None:
    torch.testing.assert_close(by_hand()(FEATURE[None], TEXT), torch.tensor([[[[3.0, 0.0, 4.0]]]]))


def test_words_and_background_share_one() -> None:
    total = WORD + OTHER + NOTHING
    assert confidence(by_hand()) == pytest.approx([WORD / total, OTHER / total])


def test_the_length_of_a_feature_and_of_the_background_says_nothing() -> None:
    classifier = by_hand()
    before = classifier(FEATURE[None], TEXT)
    with torch.no_grad():
        classifier.background.mul_(100)
    torch.testing.assert_close(classifier(9 * FEATURE[None], TEXT), before)


def test_a_new_background_is_small_and_not_nothing() -> None:
    assert CosineTextBackground(2, 4096, 1).background.std().item() == pytest.approx(0.01, rel=0.1)


def test_what_learns_no_labels_asks_the_first_stage_what_is_an_object() -> None:
    """Objectness of logit ln 3 is 3/4, and the words share one without a background."""
    found = confidence(by_hand(CosineTextObjectness), objectness=math.log(3))
    assert found == pytest.approx([math.sqrt(0.75 * p / (WORD + OTHER)) for p in (WORD, OTHER)])


def test_the_ensemble_believes_labels_of_base_words_and_images_of_novel_ones() -> None:
    """The image projection takes the first word for the second."""
    total, classifier = WORD + OTHER + NOTHING, by_hand(CosineTextEnsemble)
    of_text, of_image = (WORD / total, OTHER / total), (OTHER / (WORD + OTHER), WORD / (WORD + OTHER))
    base = [p ** (2 / 3) * q ** (1 / 3) for p, q in zip(of_text, of_image)]
    novel = [p ** (1 / 3) * q ** (2 / 3) for p, q in zip(of_text, of_image)]
    assert confidence(classifier) == pytest.approx(base)
    assert confidence(classifier, NOVEL) == pytest.approx(novel)
    assert confidence(classifier, torch.tensor([True, False])) == pytest.approx([novel[0], base[1]])


def test_the_weight_of_the_home_is_a_setting() -> None:
    assert confidence(by_hand(CosineTextEnsemble, home_weight=1.0)) == pytest.approx(confidence(by_hand()))


def test_the_image_projection_is_the_texts_unless_it_has_its_own() -> None:
    hidden = random(2, 5, 4)
    for part in (CosineText, CosineTextBackground, CosineTextObjectness):
        shared = part(4, 3, 2)
        assert torch.equal(shared.project_image(hidden, 0), shared.project(hidden, 0))
    ensemble = CosineTextEnsemble(4, 3, 2)
    assert torch.equal(ensemble.project_image(hidden, -1), ensemble.image_projections[1](hidden))
    assert not torch.allclose(ensemble.project_image(hidden, 0), ensemble.project_image(hidden, 1))
    assert not torch.allclose(ensemble.project_image(hidden, 0), ensemble.project(hidden, 0))


def class_loss(classifier: CosineText, text: Tensor) -> Tensor:
    """Of one query that is the first word and one that is nothing."""
    logits = classifier(FEATURE[None].expand(1, 1, 2, 3), text)
    zero = torch.zeros(1, dtype=torch.long)
    targets = targets_of(([0], [[0.5, 0.5, 0.1, 0.1]]))
    return CrossEntropy().loss(Predictions(logits, torch.rand(1, 1, 2, 4)), targets, Assignment(zero, zero, zero, zero))


def test_the_background_learns_and_the_words_do_not() -> None:
    classifier, text = by_hand(), TEXT.clone()
    before = classifier.background.clone()
    optimizer = torch.optim.SGD(classifier.parameters(), 0.1)
    class_loss(classifier, text).sum().backward()
    optimizer.step()
    assert not torch.equal(classifier.background, before)
    assert text.grad is None and torch.equal(text, TEXT)


def test_labels_teach_the_text_projection_of_an_ensemble_and_leave_that_of_images_alone() -> None:
    classifier = by_hand(CosineTextEnsemble)
    class_loss(classifier, TEXT).sum().backward()
    assert classifier.projections[0].weight.grad.any() and classifier.background.grad.any()
    assert not classifier.image_projections[0].weight.grad.any()  # and yet it is there, for DDP


def test_sure_scores_stay_finite() -> None:
    """Over 0.01 the loser's logit is 200 below the winner's."""
    for part in (CosineTextBackground, CosineTextObjectness, CosineTextEnsemble):
        classifier = part(8, 8, 1, 0.01)
        torch.nn.init.eye_(classifier.projections[0].weight)
        text = torch.cat([torch.eye(8)[:1], -torch.eye(8)[:1]])
        found = classifier.confidence(torch.eye(8)[None], text, text, NOVEL, torch.zeros(1, 8))
        assert bool(found.isfinite().all()) and bool((found >= 0).all() and (found <= 1).all())


@pytest.mark.parametrize("part", [CosineTextBackground, CosineTextEnsemble])
def test_in_half_floats_logits_are_not_rounded(part: type[CosineText]) -> None:
    classifier, projected = part(4, 16, 1), random(3, 16).bfloat16()
    text = F.normalize(random(5, 16, seed=1), dim=1)
    full = classifier.score(projected.float(), text)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier.score(projected, text)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, full)
