"""What is said of a detection is what the detector said."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from dk_detr.explain import explain_detections
from dk_detr.explain.detections import best_of_queries, require_detr
from dk_detr.explain.numbers import numbers_of_detections
from tests.explain_fixtures import TinyPredictor
from tests.model_fixtures import configured_detector, tiny_detector

NAMES = ["dk_detr_R50", "dino_R50_4scale", "detr_R50", "conditional_detr_R50", "deformable_detr_R50", "adamixer_R50_1x"]


def predictor_of(name: str) -> Any:
    return TinyPredictor(configured_detector(name, TRAINING_EXTENSIONS=[]))


@pytest.mark.parametrize("name", NAMES)
def test_boxes_end_where_the_detection_is_and_words_score_as_it_does(name: str) -> None:
    predictor = predictor_of(name)
    found = predictor()
    explained = explain_detections(predictor, "", threshold=0.0, number=4)
    assert len(explained.detections) == 4
    layers = len(predictor.model.decoder.layers)
    for detection in explained.detections:
        mine = found[(found.query == detection.query) & (found.pred_classes == detection.word)]
        assert detection.score == float(mine.scores[0])
        assert_close(detection.steps[-1].place, mine.pred_boxes.tensor[0], atol=1e-3, rtol=1e-5)
        assert [step.name for step in detection.steps][-layers:] == [f"layer {i + 1}" for i in range(layers)]
        assert len(detection.looks) == layers
        words = dict(detection.words)
        others = found[found.query == detection.query]
        for word, score in zip(others.pred_classes.tolist(), others.scores.tolist()):
            assert word not in words or words[word] == pytest.approx(score, abs=1e-6)
        assert detection.word in words


@pytest.mark.parametrize(
    ("name", "start"),
    [("dk_detr_R50", "proposal"), ("dab_detr_R50", "anchor"), ("conditional_detr_R50", "reference point"),
     ("detr_R50", "layer 1")],
)  # fmt: skip
def test_the_first_step_is_where_queries_of_this_kind_start(name: str, start: str) -> None:
    predictor = predictor_of(name)
    first = explain_detections(predictor, "", 0.0, 1).detections[0].steps[0]
    assert first.name == start
    assert first.place.shape == ((2,) if start == "reference point" else (4,))


def test_a_proposal_is_where_the_first_stage_put_it() -> None:
    predictor: Any = TinyPredictor(tiny_detector())
    with_proposals = predictor.model.detect_with_proposals([predictor.sample_of()])[0]
    proposals = with_proposals["proposals"].proposal_boxes.tensor
    for detection in explain_detections(predictor, "", 0.0, 3).detections:
        assert_close(detection.steps[0].place, proposals[detection.query], atol=1e-3, rtol=1e-5)


def test_explaining_changes_nothing_and_leaves_no_hook() -> None:
    predictor = predictor_of("dk_detr_R50")
    before = predictor()
    explain_detections(predictor, "", 0.0, 2)
    assert torch.equal(predictor().scores, before.scores)
    assert not any(module._forward_hooks for module in predictor.model.modules())


def test_without_a_confident_detection_the_best_are_explained() -> None:
    predictor = predictor_of("dk_detr_R50")
    best = float(predictor().scores[0])
    assert explain_detections(predictor, "", best, 9).num_confident == 1
    assert len(explain_detections(predictor, "", best, 9).detections) == 1
    explained = explain_detections(predictor, "", 1.0, 3)
    assert explained.num_confident == 0
    assert explained.detections[0].score == best


def test_each_query_is_explained_once_by_its_best_word() -> None:
    found = predictor_of("dk_detr_R50")()
    best = best_of_queries(found, 0.0)
    assert len(found) > len(best) == len(set(found.query.tolist()))
    for i in range(len(best)):
        assert float(best.scores[i]) == float(found.scores[found.query == best.query[i]].max())
    assert best.scores.tolist() == sorted(best.scores.tolist(), reverse=True)


def test_a_detector_without_a_decoder_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match='"Linear" has no decoder of queries'):
        require_detr(torch.nn.Linear(2, 2))


def test_novel_words_are_those_that_the_detector_was_not_trained_for() -> None:
    predictor = predictor_of("dk_detr_R50")
    explained = explain_detections(predictor, "", 0.0, 1)
    assert explained.vocabulary.novel.tolist() == predictor.model.novel.tolist()


def test_the_numbers_of_the_json_sum_to_one_and_name_their_words() -> None:
    for name, kind in (("dk_detr_R50", "points"), ("detr_R50", "map")):
        explained = explain_detections(predictor_of(name), "", 0.0, 1)
        (record,) = numbers_of_detections(explained)
        assert record["name"] == explained.vocabulary.names[explained.detections[0].word]
        for layer in record["attention"]:
            assert layer["kind"] == kind
            assert float(torch.tensor(layer["share"]).sum()) == pytest.approx(1, abs=1e-3)
