"""Heads: predictions of each query group, made once and when they are asked for, and what detections are believed."""

from unittest.mock import patch

import torch
from torch import Tensor

from dk_detr.modeling import BoxQuality, CosineText, Heads, InitialQueries
from dk_detr.structures import DETECTION, QueryGroup, QuerySet, Trace
from tests.model_fixtures import CHANNELS, WIDTH, fixed_seed, random

LAYERS, IMAGES, QUERIES, WORDS = 2, 2, 3, 4


def heads() -> Heads:
    with fixed_seed():
        return Heads(CosineText(CHANNELS, WIDTH, LAYERS))


def group(name: str, valid: Tensor | None = None) -> QueryGroup:
    content = torch.zeros(IMAGES, QUERIES, CHANNELS)
    return QueryGroup(name, content, None, None, (name,), None, valid=valid)


def trace(*groups: QueryGroup) -> Trace:
    hidden_states = random(LAYERS, IMAGES, QUERIES * len(groups), CHANNELS)
    return Trace(hidden_states, random(*hidden_states.shape[:3], 4).sigmoid(), QuerySet(groups))


def text() -> Tensor:
    return torch.nn.functional.normalize(random(WORDS, WIDTH), dim=1)


def test_a_group_is_predicted_when_it_is_first_asked_for_and_once() -> None:
    made = heads()
    with patch.object(made.classifier, "forward", wraps=made.classifier.forward) as classify:
        predictions = made(trace(group(DETECTION), group("other")), text())
        assert classify.call_count == 0
        assert predictions["other"] is predictions["other"]
        assert classify.call_count == 1


def test_predictions_are_those_of_the_group_and_of_its_valid_queries() -> None:
    made, valid = heads(), torch.tensor([[True, True, False]] * IMAGES)
    seen = trace(group(DETECTION), group("other", valid))
    predictions = made(seen, text())
    other = predictions["other"]
    assert predictions[DETECTION].valid is None and torch.equal(other.valid, valid)
    assert torch.equal(other.boxes, seen.boxes[:, :, QUERIES:])
    torch.testing.assert_close(other.logits, made.classifier(seen.hidden_states[:, :, QUERIES:], text()))


def test_what_only_fills_up_is_no_detection_and_the_rest_is_what_it_was() -> None:
    valid = torch.tensor([[True, True, True], [True, False, False]])
    novel = torch.zeros(WORDS, dtype=torch.bool)
    scores = [
        heads().scores(trace(one), InitialQueries(one), text(), text(), novel)
        for one in (group(DETECTION, valid), group(DETECTION))
    ]
    assert not scores[0][~valid].any() and scores[1].all()
    assert torch.equal(scores[0][valid], scores[1][valid])


def rating(exponent: float) -> Heads:
    made = heads()
    with fixed_seed(1):
        return Heads(made.classifier, BoxQuality(CHANNELS, LAYERS), exponent)


def test_scores_of_all_words_are_multiplied_by_the_power_of_the_quality_of_the_last_layer() -> None:
    one, novel = group(DETECTION), torch.tensor([False, True, True, False])
    given = (trace(one), InitialQueries(one), text(), text(), novel)
    made = rating(0.5)
    quality = made.quality.heads[-1](trace(one).hidden_states[-1])[..., 0].sigmoid()
    torch.testing.assert_close(made.scores(*given), heads().scores(*given) * quality[..., None].sqrt())
    assert torch.equal(rating(0.0).scores(*given), heads().scores(*given))


def test_each_group_says_in_every_layer_how_well_its_boxes_fit() -> None:
    made, seen = rating(1.0), trace(group(DETECTION), group("other"))
    found = made(seen, text())["other"].quality
    assert found.shape == (LAYERS, IMAGES, QUERIES)
    for layer, rate in enumerate(made.quality.heads):
        torch.testing.assert_close(found[layer], rate(seen.hidden_states[layer, :, QUERIES:])[..., 0])
    assert heads()(seen, text())["other"].quality is None
