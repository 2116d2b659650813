"""AdaMixer in the house: its decoder serves extensions, teachers and masks as the loop does."""

import math
from typing import Any
from unittest.mock import patch

import pytest
import torch
from detectron2.data.transforms import NoOpTransform
from torch.testing import assert_close

from dk_detr.data.bank import StoredRegions, follow
from dk_detr.meta_arch import DETR
from dk_detr.meta_arch.combinations import refuse_bad_combinations
from tests.model_fixtures import (
    WIDTH,
    TwoConvolutions,
    configured_detector,
    outlined,
    random,
    tiny_config,
    tiny_input,
    training_losses,
)

SMALLER: dict[str, Any] = {"ADAMIXER__POINTS": 4, "ADAMIXER__OUT_POINTS": 5, "ENCODER_LAYERS": 0, "NUM_HEADS": 4}
INPUTS = [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)]


def detector(name: str = "adamixer_R50_1x", **options: Any) -> DETR:
    return configured_detector(name, **{**SMALLER, **options})


def with_regions(sample: dict[str, Any]) -> dict[str, Any]:
    """With what a bank stores of it."""
    h, w = sample["height"], sample["width"]
    boxes = sample["instances"].gt_boxes.tensor
    embeddings = torch.nn.functional.normalize(random(len(boxes), WIDTH, seed=h), dim=1).half()
    stored = StoredRegions(boxes, torch.arange(len(boxes), 0, -1.0), embeddings)
    return {**sample, "regions": follow(stored, NoOpTransform(), (h, w), 10, 0.0)}


@pytest.mark.parametrize(
    "options",
    [{}, {"QUERIES": "Anchors"}, {"MODEL__MASK_ON": True, "MASKS": "Dynamic"}, {"DECODER_ATTENTION": "Dense"}],
    ids=["plain", "anchors", "masks", "a key of the loop"],
)
def test_every_parameter_learns_and_losses_are_numbers(options: dict[str, Any]) -> None:
    made = detector(**options)
    losses = training_losses(made, [outlined(sample) for sample in INPUTS])
    sum(losses.values()).backward()
    assert set(losses) >= {"loss_class", "loss_l1", "loss_giou"} and all(math.isfinite(v) for v in losses.values())
    assert not [name for name, p in made.named_parameters() if p.grad is None]


@pytest.mark.parametrize("extensions", [["Denoising"], ["BoxDenoising"]], ids=lambda names: names[0])
def test_extensions_join_and_change_no_detection_loss(extensions: list[str]) -> None:
    with_company = detector(TRAINING_EXTENSIONS=extensions)
    alone = detector()
    alone.load_state_dict({name: with_company.state_dict()[name] for name in alone.state_dict()})
    losses, bare = training_losses(with_company, INPUTS), training_losses(alone, INPUTS)
    assert len(losses) > len(bare)
    for name, loss in bare.items():
        assert_close(losses[name], loss, atol=1e-5, rtol=1e-5)


def test_a_bank_teaches_it_at_its_own_places() -> None:
    made = detector("dk_adamixer_R50", MODEL__TEACHER__BANK="", MODEL__KD__SLOT_FILTERS=["duplicates"])
    losses = training_losses(made, [with_regions(sample) for sample in INPUTS])
    taught = {name: loss for name, loss in losses.items() if name.startswith("loss_kd_")}
    assert len(taught) >= 2 and all(loss > 0 for loss in taught.values())
    sum(losses.values()).backward()
    assert made.extensions["Distillation"].queries.content.weight.grad.any()


def test_it_detects_the_same_in_company_and_alone_and_draws_masks() -> None:
    made = detector(MODEL__MASK_ON=True, MASKS="Dynamic")
    with torch.no_grad():
        for given, together in zip(INPUTS, made(INPUTS)):
            found, (alone,) = together["instances"], made([given])
            assert len(found) and found.has("pred_masks")
            assert_close(found.scores, alone["instances"].scores, atol=1e-5, rtol=1e-4)
            assert_close(found.pred_boxes.tensor, alone["instances"].pred_boxes.tensor, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"QUERIES": "Learned"}, 'DECODER is "AdaMixer", but MODEL.DETR.QUERIES "Learned" has no boxes to start from'),
        ({"BOXES": "Logits"}, 'MODEL.DETR.BOXES "Logits" is of another decoder: set the latter to "ScaleRatio"'),
        ({"HEADS": "Shared"}, 'MODEL.DETR.HEADS "Shared" is of another decoder'),
        ({"ADAMIXER__GROUPS": 3}, "CHANNELS 32 must be a multiple of MODEL.DETR.ADAMIXER.GROUPS 3"),
        ({"ADAMIXER__POINTS": 0}, "MODEL.DETR.ADAMIXER.POINTS must be at least 1, got 0"),
        ({"NUM_HEADS": 5}, "CHANNELS 32 must be a multiple of MODEL.DETR.NUM_HEADS 5"),
        ({"CONTENT": "Zero"}, 'CONTENT is "Zero", but MODEL.DETR.QUERIES "WholeImage" has its own'),
        ({"DECODER_LAYERS": 0}, "DECODER_LAYERS must be at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused_by_both_keys(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        refuse_bad_combinations(tiny_config("adamixer_R50_1x", **{**SMALLER, **options}))


def test_a_backbone_must_tell_its_strides() -> None:
    silent = {name: spec._replace(stride=None) for name, spec in TwoConvolutions().output_shape().items()}
    with (
        patch.object(TwoConvolutions, "output_shape", lambda self: silent),
        pytest.raises(ValueError, match='"AdaMixer" samples by the strides'),
    ):
        detector()


def test_pseudo_objects_ask_for_a_first_stage() -> None:
    options = {**SMALLER, "MODEL__KD__PSEUDO_OBJECTS": 0.1, "CLASSIFIER__LOGIT_BIAS": -3.0}
    with pytest.raises(ValueError, match='PSEUDO_OBJECTS 0.1 .* MODEL.DETR.QUERIES "WholeImage" has no first stage'):
        refuse_bad_combinations(tiny_config("dk_adamixer_R50", **options))


def test_a_live_teacher_asks_for_proposals() -> None:
    with pytest.raises(ValueError, match='QUERIES "WholeImage" proposes no places .* "EmbeddingBank"'):
        refuse_bad_combinations(tiny_config("dk_adamixer_R50", **SMALLER, MODEL__TEACHER__NAME="CLIPCrops"))
