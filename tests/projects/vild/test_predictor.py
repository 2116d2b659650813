"""The losses against the labels by numbers computed by hand; the background learns and the words do not."""

import math
from typing import Any

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.modeling import CosineText, CosineTextBackground
from projects.ViLD.vild.forms import FORMS
from projects.ViLD.vild.predictor import BoxPredictor

WORD = torch.tensor([[1.0, 0.0]])
OBJECT, NOTHING = 0, 1  # the labels of one word and of the background


def predictor(form: str = "ViLD", temperature: float = 0.5) -> BoxPredictor:
    """Embeds a feature as itself; the background is the second axis; boxes stay where they are."""
    classifier = (CosineTextBackground if FORMS[form].learns_labels else CosineText)(2, 2, 1, temperature)
    made = BoxPredictor(
        classifier=classifier,
        input_shape=ShapeSpec(channels=2),
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=1,
        smooth_l1_beta=1.0,
    )
    projection: Any = classifier.projections[0]
    with torch.no_grad():
        projection.weight.copy_(torch.eye(2))
        projection.bias.zero_()
        made.bbox_pred.weight.zero_()
        if isinstance(classifier, CosineTextBackground):
            classifier.background.copy_(torch.tensor([0.0, 7.0]))
    return made


def proposals(*labels: int) -> list[Instances]:
    """Boxes of side 10 of one image; their objects lie one pixel to the right."""
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(len(labels), 1)
    found = Instances((20, 20), proposal_boxes=Boxes(boxes), gt_classes=torch.tensor(labels))
    found.gt_boxes = Boxes(boxes + torch.tensor([1.0, 0.0, 1.0, 0.0]))
    return [found]


def features(count: int) -> Tensor:
    """(3, 4): cosine 0.6 with the word, 0.8 with the background; over 0.5 the logits 1.2 and 1.6."""
    return torch.tensor([[3.0, 4.0]]).repeat(count, 1)


def test_the_class_loss_is_the_cross_entropy_of_cosines_over_the_temperature() -> None:
    loss = predictor().label_losses(features(2), WORD, proposals(OBJECT, NOTHING))["loss_cls"]
    by_hand = (math.log(1 + math.exp(0.4)) + math.log(1 + math.exp(-0.4))) / 2
    assert loss.item() == pytest.approx(by_hand)


def test_the_box_loss_is_that_of_objects_over_all_proposals() -> None:
    """A tenth of the width to the right, times 10: a distance of 1, smooth L1 ½; half of the proposals show nothing."""
    loss = predictor().label_losses(features(2), WORD, proposals(OBJECT, NOTHING))["loss_box_reg"]
    assert loss.item() == pytest.approx(0.25)


def test_without_an_object_there_is_no_box_to_learn() -> None:
    (nothing,) = proposals(NOTHING)
    nothing.remove("gt_boxes")
    assert predictor().label_losses(features(1), WORD, [nothing])["loss_box_reg"].item() == 0


def test_a_form_without_labels_learns_boxes_only() -> None:
    assert set(predictor("ViLD-image").label_losses(features(1), WORD, proposals(OBJECT))) == {"loss_box_reg"}


def test_one_box_serves_all_words() -> None:
    assert predictor().bbox_pred.out_features == 4


def test_the_background_learns_and_the_words_do_not() -> None:
    one, text = predictor(), WORD.clone().requires_grad_(False)
    optimizer = torch.optim.SGD(one.parameters(), 0.1)
    before = one.classifier.background.clone()  # type: ignore[operator]
    sum(one.label_losses(features(2), text, proposals(OBJECT, NOTHING)).values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    assert not torch.equal(one.classifier.background, before)  # type: ignore[arg-type]
    assert text.grad is None and torch.equal(text, WORD)
    assert [name for name, _ in one.named_parameters() if "cls" in name] == []
