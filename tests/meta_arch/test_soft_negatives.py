"""Soft negatives: where the teacher looked, what it believes in is no negative. B images, Q queries, K words."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.distillation import Distillation
from dk_detr.meta_arch import DETR
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from tests.model_fixtures import QUERIES, configured_detector, fixed_seed, tiny_config, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]


def detector(queries: str = "Auxiliary") -> DETR:
    config = {"Auxiliary": "dk_detr_R50", "Detection": "ablations/without_queries"}[queries]
    return configured_detector(config, CLASSIFIER__LOGIT_BIAS=-2.0)


def step(made: DETR, soft: bool) -> dict[str, Tensor]:
    made.extensions["Distillation"].soft_negatives = soft
    with fixed_seed(7):
        return training_losses(made, INPUTS)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the last step's weights were, and what they rest on."""
    found: dict[str, Any] = {}
    whole = Distillation.negative_weight

    def watched(self: Distillation, plan: Any, inputs: Any, outputs: Any) -> Tensor | None:
        weight = whole(self, plan, inputs, outputs)
        knowledge = plan.knowledge(outputs.assignment.of_layer(len(outputs.trace.boxes) - 1))
        found.update(weight=weight, knowledge=knowledge, outputs=outputs)
        return weight

    monkeypatch.setattr(Distillation, "negative_weight", watched)
    return found


@pytest.mark.parametrize("queries", ["Auxiliary", "Detection"])
def test_a_query_learns_that_it_is_not_a_word_as_far_as_the_teacher_does_not_believe_in_it(
    queries: str, seen: dict[str, Any]
) -> None:
    made = detector(queries)
    step(made, True)
    knowledge, weight = seen["knowledge"], seen["weight"]
    cosines = knowledge.embeddings @ made.train_text.T
    believed = (cosines / made.classifier.temperature - 2.0).sigmoid()
    regions = knowledge.regions
    assert len(regions) and weight.shape == (2, QUERIES, len(made.train_vocabulary))
    torch.testing.assert_close(weight[regions.image, regions.query], 1 - believed)
    elsewhere = torch.ones(weight.shape[:2], dtype=torch.bool)
    elsewhere[regions.image, regions.query] = False
    assert (weight[elsewhere] == 1).all()
    assert not weight.requires_grad


@pytest.mark.parametrize("queries", ["Auxiliary", "Detection"])
def test_only_the_class_loss_of_the_detections_gets_less(queries: str) -> None:
    made = detector(queries)
    hard, soft = step(made, False), step(made, True)
    assert soft["loss_class"] < hard["loss_class"]
    assert hard.keys() == soft.keys()
    for name in hard.keys() - {"loss_class"}:
        assert torch.equal(hard[name], soft[name]), name


def test_the_teacher_is_asked_once_in_a_step() -> None:
    made = detector()
    asked: list[int] = []
    teacher = made.extensions["Distillation"].queries.teacher
    ask = teacher.ask

    def counted(shown: Any, regions: Any) -> Any:
        asked.append(len(regions))
        return ask(shown, regions)

    teacher.ask = counted
    step(made, True)
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ("dk_detr_R50_fast", {"CLASSIFIER__LOGIT_BIAS": -2.0}, 'QUERIES "SelectedAuxiliary" belong to none'),
        ("dk_detr_R50", {}, "it needs MODEL.CALIBRATION"),
    ],
)
def test_what_cannot_ask_the_teacher_so_is_refused(config: str, options: dict[str, Any], message: str) -> None:
    cfg = tiny_config(config, **options)
    cfg.MODEL.KD.NEGATIVES = "Soft"
    with pytest.raises(ValueError, match=message):
        refuse_bad_combinations(cfg)
