"""The one idea of the house: auxiliary queries learn beside the detection queries, which never notice.

Isolation is of activations. Weights are shared, so distillation still trains the detector; that is its point.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from dk_detr.meta_arch import DETR
from dk_detr.structures import QuerySet
from tests.model_fixtures import QUERIES, random, tiny_detector, tiny_distillation, tiny_input, training_losses

INPUTS = [tiny_input(seed=1), tiny_input((32, 40), seed=2)]
AUXILIARY: list[dict[str, Any]] = [{"reference": "follow"}, {"reference": "stay"}, {"queries": "SelectedAuxiliary"}]
LEARNING_ALONE = [{**auxiliary, "layers": layers} for auxiliary in AUXILIARY for layers in ("last", "all")]
each_kind = pytest.mark.parametrize("auxiliary", AUXILIARY, ids=str)


def step(detector: DETR) -> tuple[Tensor, Tensor, QuerySet]:
    """The summed detection and distillation losses of a step, and the queries that it started from."""
    started = []
    hook = detector.decoder.register_forward_pre_hook(lambda _, given: started.append(given[0]))
    losses = training_losses(detector, INPUTS)
    hook.remove()
    taught = sum(loss for name, loss in losses.items() if "_kd_" in name)
    detected = sum(loss for name, loss in losses.items() if "_kd_" not in name)
    return detected, taught, started[0]


def detection_losses(detector: DETR) -> dict[str, Tensor]:
    losses = training_losses(detector, INPUTS)
    return {name: loss for name, loss in losses.items() if "_kd_" not in name}


@pytest.mark.parametrize("settings", LEARNING_ALONE, ids=str)
def test_distillation_gives_no_gradient_to_detection_queries(settings: dict[str, Any]) -> None:
    detector = tiny_detector(tiny_distillation(**settings))
    _, taught, queries = step(detector)
    (grad,) = torch.autograd.grad(taught, queries["detection"].content)
    assert not grad.any()


@pytest.mark.parametrize("settings", LEARNING_ALONE, ids=str)
def test_distillation_gives_no_gradient_to_learned_detection_queries(settings: dict[str, Any]) -> None:
    detector = tiny_detector(tiny_distillation(**settings), queries="Mixed")
    detected, taught, _ = step(detector)
    content = detector.queries.content.weight
    assert not torch.autograd.grad(taught, content, retain_graph=True)[0].any()
    assert torch.autograd.grad(detected, content)[0].any()


def test_distillation_does_teach_its_own_queries_and_every_shared_part() -> None:
    detector = tiny_detector(tiny_distillation())
    _, taught, queries = step(detector)
    content, position = torch.autograd.grad(
        taught, [queries["auxiliary"].content, queries["auxiliary"].position], retain_graph=True
    )
    chosen = content.any(-1).sum(1)
    assert (chosen > 0).all() and position.any()
    taught.backward()
    assert detector.extensions["Distillation"].queries.content.weight.grad.any()
    for part in (detector.decoder.layers, detector.encoder, detector.backbone, detector.classifier.projections[-1]):
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_distillation_moves_no_box_head_and_no_objectness() -> None:
    detector = tiny_detector(tiny_distillation(layers="all"))
    step(detector)[1].backward()
    for part in (detector.decoder.box_heads, detector.queries.box_head, detector.queries.objectness):
        assert not any(parameter.grad is not None and parameter.grad.any() for parameter in part.parameters())


def test_auxiliary_queries_that_attend_to_the_detection_queries_do_teach_them() -> None:
    """What they see, they may blame: this is why the default is that they see themselves only."""
    detector = tiny_detector(tiny_distillation(attends_to=("auxiliary", "detection")))
    _, taught, queries = step(detector)
    assert torch.autograd.grad(taught, queries["detection"].content)[0].any()


@pytest.mark.parametrize("kind", ["Auxiliary", "SelectedAuxiliary"])
@pytest.mark.parametrize("attends_to", [("auxiliary",), ("detection",), ("auxiliary", "detection")])
def test_detection_gives_no_gradient_to_the_auxiliary_queries(attends_to: tuple[str, ...], kind: str) -> None:
    detector = tiny_detector(tiny_distillation(queries=kind, attends_to=attends_to))
    detected, _, queries = step(detector)
    for content in (queries["auxiliary"].content, detector.extensions["Distillation"].queries.content.weight):
        assert not torch.autograd.grad(detected, content, retain_graph=True)[0].any()
    assert torch.autograd.grad(detected, queries["detection"].content)[0].any()


@pytest.mark.parametrize("attends_to", [("auxiliary",), ("auxiliary", "detection")])
@each_kind
def test_a_detector_with_distillation_has_the_detection_losses_of_one_without(
    attends_to: tuple[str, ...], auxiliary: dict[str, Any]
) -> None:
    alone = detection_losses(tiny_detector())
    company = detection_losses(tiny_detector(tiny_distillation(attends_to=attends_to, **auxiliary)))
    assert alone.keys() == company.keys()
    for name, loss in alone.items():
        torch.testing.assert_close(company[name], loss, msg=lambda text, name=name: f"{name}: {text}")


def test_what_the_auxiliary_queries_know_changes_no_loss_but_their_own() -> None:
    detector = tiny_detector(tiny_distillation())
    before, taught = detection_losses(detector), step(detector)[1]
    with torch.no_grad():
        detector.extensions["Distillation"].queries.content.weight.copy_(3 * random(QUERIES, 32, seed=9))
    for name, loss in detection_losses(detector).items():
        torch.testing.assert_close(before[name], loss)
    assert (step(detector)[1] - taught).abs() > 1e-3


def test_distilling_into_the_detection_queries_adds_none_and_does_teach_them() -> None:
    detector = tiny_detector(tiny_distillation(queries="Detection"))
    _, taught, queries = step(detector)
    assert [group.name for group in queries.groups] == ["detection"]
    assert torch.autograd.grad(taught, queries["detection"].content)[0].any()


@pytest.mark.parametrize("queries", ["Auxiliary", "SelectedAuxiliary", "Detection"])
def test_inference_is_the_same_with_distillation_and_without(queries: str) -> None:
    """To the last bit, at the same cost: auxiliary queries and teacher are absent, not switched off."""
    taught, without = tiny_detector(tiny_distillation(queries=queries)), tiny_detector()
    for ours, theirs in zip(taught(INPUTS), without(INPUTS)):
        for field in ("scores", "pred_classes"):
            assert torch.equal(ours["instances"].get(field), theirs["instances"].get(field))
        assert torch.equal(ours["instances"].pred_boxes.tensor, theirs["instances"].pred_boxes.tensor)
