"""Contracts of the detector, in each of its four forms."""

import copy
from typing import Any

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from dk_detr.engine.setup import for_inference
from dk_detr.structures import Vocabulary
from tests.model_fixtures import fixed_seed
from tests.projects.vild.vild_fixtures import (
    NAMES,
    NUM_DETECTIONS,
    TAUGHT,
    mini,
    sample,
    shrunk_cfg,
    stored_regions,
    tiny_vild,
    training_losses,
)
from tests.run_fixtures import NAMES as WORDS
from tests.run_fixtures import SIDE, WIDTH, World, words, world_with_masks

LABELS, IMAGES, MASKS = "loss_cls", "loss_kd_embedding_l1", "loss_mask"
ALWAYS = {"loss_rpn_cls", "loss_rpn_loc", "loss_box_reg", MASKS}
LEARNS = {
    "ViLD_text": {LABELS},
    "ViLD_image": {IMAGES},
    "ViLD": {LABELS, IMAGES},
    "ViLD_ensemble": {LABELS, IMAGES},
}
forms = pytest.mark.parametrize("name", NAMES)
taught_forms = pytest.mark.parametrize("name", TAUGHT)
STORED: dict[str, Any] = {"MODEL__TEACHER__NAME": "EmbeddingBank"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world_with_masks(tmp_path_factory.mktemp("world"))


def without_gradient(detector: nn.Module, losses: dict[str, Tensor]) -> list[str]:
    """The trainable parameters that a step would leave out; on several workers each would be an error."""
    detector.zero_grad()
    sum(losses.values()).backward()  # type: ignore[union-attr]
    return [name for name, p in detector.named_parameters() if p.requires_grad and p.grad is None]


def found(detector: Any, inputs: list[dict[str, Any]]) -> list[list[tuple[str, float, tuple[float, ...]]]]:
    """Names, scores and boxes of each image, rounded, the best first."""
    with torch.no_grad():
        outputs = [output["instances"] for output in detector.eval()(inputs)]
    return [
        [
            (detector.vocabulary.names[label], round(score, 4), tuple(round(x, 2) for x in box))
            for label, score, box in zip(one.pred_classes.tolist(), one.scores.tolist(), one.pred_boxes.tensor.tolist())
        ]
        for one in outputs
    ]


# ---- training ----


def test_the_objects_of_the_batch_that_a_part_is_told_change_nothing(world: World) -> None:
    """Its losses are means over regions."""
    detector = tiny_vild(world, "ViLD_text")
    whole, part = training_losses(detector, [sample(2)]), training_losses(detector, [sample(2)], num_objects=0.5)
    assert part.keys() == whole.keys() and not [name for name in whole if not torch.equal(part[name], whole[name])]


@forms
def test_each_form_has_its_losses_and_each_parameter_its_gradient(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    losses = training_losses(detector, [sample(2), sample(1, seed=1)])
    assert set(losses) == ALWAYS | LEARNS[name]
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert without_gradient(detector, losses) == []


@forms
def test_an_image_without_objects_trains(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    losses = training_losses(detector, [sample(0)])
    assert without_gradient(detector, losses) == []
    assert losses["loss_box_reg"].item() == losses[MASKS].item() == 0


@taught_forms
def test_a_batch_without_regions_trains_and_teaches_nothing(world: World, name: str) -> None:
    detector = tiny_vild(world, name, **STORED)
    losses = training_losses(detector, [{**sample(2), "regions": stored_regions([])}])
    assert losses[IMAGES].item() == 0
    assert without_gradient(detector, losses) == []


@taught_forms
def test_the_image_loss_is_the_weighted_distance_to_the_stored_embeddings(world: World, name: str) -> None:
    """The student says the first axis everywhere, the teacher the first and the second: distances 0 and 2, mean 1."""
    detector = tiny_vild(world, name, MODEL__KD__EMBEDDING_L1__WEIGHT=0.5, **STORED)
    head = detector.roi_heads.image_head or detector.roi_heads.box_predictor
    projection = head.classifier.projections[0]
    with torch.no_grad():
        projection.weight.zero_()
        projection.bias.copy_(3 * torch.eye(WIDTH)[0])
    inputs = [
        {**sample(2), "regions": stored_regions([[0.0, 0, 20, 20]], torch.eye(WIDTH)[:1])},
        {**sample(1), "regions": stored_regions([[9.0, 9, 40, 40]], torch.eye(WIDTH)[1:2])},
    ]
    assert training_losses(detector, inputs)[IMAGES].item() == pytest.approx(0.5 * 1.0)


@taught_forms
def test_the_image_loss_alone_scales_with_the_factor_of_the_iteration(world: World, name: str) -> None:
    """`training_losses` is of the first iteration: the factor is where the curve starts."""
    annealed = {f"MODEL__KD__ANNEAL__{key}": value for key, value in (("CURVE", "Linear"), ("FROM", 0.5))}
    plain, half = (training_losses(tiny_vild(world, name, **keys), [sample()]) for keys in ({}, annealed))
    assert plain[IMAGES] > 0
    assert half == {**plain, IMAGES: 0.5 * plain[IMAGES]}


@taught_forms
def test_where_the_teacher_looks_moves_the_image_loss_alone(world: World, name: str) -> None:
    """Each loss has the rows of its own regions. (BatchNorm would mix them, so here is none.)"""
    detector = tiny_vild(world, name, MODEL__ROI_BOX_HEAD__NORM="''", **STORED)
    here, there = (
        training_losses(detector, [{**sample(2), "regions": stored_regions([box])}])
        for box in ([0.0, 0, 30, 30], [20.0, 30, 60, 60])
    )
    assert here[IMAGES].item() != pytest.approx(there[IMAGES].item(), rel=1e-6)
    for loss in (ALWAYS | LEARNS[name]) - {IMAGES}:
        torch.testing.assert_close(here[loss], there[loss])


def test_heads_of_their_own_do_not_disturb_each_other(world: World) -> None:
    """In ViLD-ensemble the teacher moves no parameter of the text head, and labels none of the image head."""
    detector = tiny_vild(world, "ViLD_ensemble")
    losses = training_losses(detector, [sample(2)])
    heads = detector.roi_heads
    text_head = [*heads.box_head.parameters(), *heads.box_predictor.classifier.parameters()]
    gradients = torch.autograd.grad(losses[IMAGES], text_head, retain_graph=True, allow_unused=True)
    assert all(gradient is None for gradient in gradients)
    gradients = torch.autograd.grad(losses[LABELS], list(heads.image_head.parameters()), allow_unused=True)
    assert all(gradient is None for gradient in gradients)


def test_novel_words_have_no_column_in_training(world: World) -> None:
    """Two base words and the background; the blue box is novel."""
    detector = tiny_vild(world, "ViLD")
    assert detector.train_vocabulary.names == WORDS[:2]
    classifier = detector.roi_heads.box_predictor.classifier
    assert classifier.score(torch.zeros(1, WIDTH), detector.train_text).shape == (1, 3)
    assert detector.roi_heads.num_classes == 2


def test_training_goes_on_with_its_own_words_whatever_is_detected(world: World) -> None:
    detector = tiny_vild(world, "ViLD_text")
    before = training_losses(detector, [sample(2)])
    detector.set_vocabulary(words(("unheard_of", "unseen"), novel=()))
    for name, loss in training_losses(detector, [sample(2)]).items():
        torch.testing.assert_close(loss, before[name])


@forms
def test_words_are_not_learnt_and_not_saved(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    before = detector.train_text.clone()
    losses = training_losses(detector, [sample(2)])
    sum(losses.values()).backward()  # type: ignore[union-attr]
    torch.optim.SGD(detector.parameters(), 0.1).step()
    assert torch.equal(detector.train_text, before) and detector.train_text.grad is None
    assert not [key for key in detector.state_dict() if "text" in key or "novel" in key or "teacher" in key]


# ---- the teacher ----


@taught_forms
def test_a_detector_for_inference_has_the_same_weights_and_no_teacher(world: World, name: str) -> None:
    trained = tiny_vild(world, name)
    deployed = build_model(for_inference(shrunk_cfg(world, mini(name)))).eval()
    assert trained.teaching is not None and deployed.teaching is None
    deployed.load_state_dict(trained.state_dict())  # strict
    assert found(deployed, [sample()]) == found(trained, [sample()])


@taught_forms
def test_training_without_the_teacher_is_refused_by_key(world: World, name: str) -> None:
    detector = tiny_vild(world, name, MODEL__TRAINING_EXTENSIONS=[])
    with pytest.raises(ValueError, match='teacher: name "Distillation" in MODEL.TRAINING_EXTENSIONS'):
        training_losses(detector, [sample()])


def test_stored_embeddings_of_another_width_are_refused(world: World) -> None:
    detector = tiny_vild(world, "ViLD", **STORED)
    regions = stored_regions([[0.0, 0, 9, 9]], torch.eye(5)[:1])
    with pytest.raises(ValueError, match=f"holds rows of width 5, but the vocabulary has width {WIDTH}"):
        training_losses(detector, [{**sample(), "regions": regions}])


def test_a_bank_without_regions_in_the_samples_is_missed(world: World) -> None:
    with pytest.raises(ValueError, match='"EmbeddingBank" needs samples with "regions"'):
        training_losses(tiny_vild(world, "ViLD", **STORED), [sample()])


# ---- detection ----


@forms
def test_detections_are_what_evaluators_and_pictures_want(world: World, name: str) -> None:
    (output,) = tiny_vild(world, name)([{**sample(), "height": 2 * SIDE, "width": SIDE}])
    one = output["instances"]
    assert one.image_size == (2 * SIDE, SIDE) and len(one) == NUM_DETECTIONS
    assert one.pred_masks.shape == (NUM_DETECTIONS, 2 * SIDE, SIDE) and one.pred_masks.dtype == torch.bool
    assert one.scores.tolist() == sorted(one.scores.tolist(), reverse=True)
    assert 0 <= float(one.scores.min()) and float(one.scores.max()) <= 1
    assert set(one.pred_classes.tolist()) <= {0, 1, 2}


@forms
def test_base_and_novel_words_may_come_in_any_order(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    inputs = [sample()]
    before = sorted(found(detector, inputs)[0])
    for order in ((2, 1, 0), (1, 2, 0)):
        detector.set_vocabulary(detector.vocabulary.select([WORDS[i] for i in order]))
        assert sorted(found(detector, inputs)[0]) == before


@forms
def test_batch_of_two_equals_two_batches_of_one(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    for other in (sample(seed=1), sample(size=(40, 100), seed=1)):
        one = sample()
        assert found(detector, [one, other]) == found(detector, [one]) + found(detector, [other])


def test_proposals_are_in_the_size_of_the_output(world: World) -> None:
    detector = tiny_vild(world, "ViLD_text")
    (small,), (large,) = detector.propose([sample()]), detector.propose([{**sample(), "height": 2 * SIDE}])
    assert small.image_size == (SIDE, SIDE) and large.image_size == (2 * SIDE, SIDE) and len(small) > 5
    torch.testing.assert_close(large.proposal_boxes.tensor, small.proposal_boxes.tensor * torch.tensor([1, 2, 1, 2]))
    assert small.objectness_logits.tolist() == sorted(small.objectness_logits.tolist(), reverse=True)


def test_exchanging_what_is_novel_exchanges_the_heads(world: World) -> None:
    """The score of the same word, said to be base and said to be novel, by the formula."""
    detector = tiny_vild(world, "ViLD_ensemble")
    heads = detector.roi_heads
    with fixed_seed(1), torch.no_grad():
        pooled = torch.randn(3, 8, 7, 7)
        vectors, objectness = heads.box_head(pooled), torch.zeros(3)
        of_text = heads.box_predictor.classifier.score(heads.box_predictor.embed(vectors), detector.text)
        of_image = heads.image_head.classifier.score(heads.image_head(pooled), detector.text)
        p, q = of_text.softmax(1)[:, :-1], of_image.softmax(1)
        for novel, by_hand in ((False, p ** (2 / 3) * q ** (1 / 3)), (True, p ** (1 / 3) * q ** (2 / 3))):
            score = heads.score(pooled, vectors, objectness, detector.text, torch.full((3,), novel)).exp()
            torch.testing.assert_close(score, by_hand)


def test_vild_image_ranks_by_objectness_too(world: World) -> None:
    """The same region, said to be an object with 1/2 and with 1/5: √(5/2) lies between the scores."""
    detector = tiny_vild(world, "ViLD_image")
    pooled = torch.ones(2, 8, 7, 7)
    objectness = torch.tensor([0.5, 0.2]).logit()
    with torch.no_grad():
        score = detector.roi_heads.score(pooled, detector.roi_heads.box_head(pooled), objectness, detector.text, None)
    torch.testing.assert_close(score[0].exp(), score[1].exp() * 2.5**0.5)


@forms
def test_more_objectness_in_the_scores_is_a_power_of_it(world: World, name: str) -> None:
    detector = tiny_vild(world, name)
    pooled = torch.ones(2, 8, 7, 7)
    objectness, novel = torch.tensor([0.5, 0.2]).logit(), torch.tensor([False, True, False])
    heads = detector.roi_heads
    with torch.no_grad():
        vectors = heads.box_head(pooled)
        without = heads.score(pooled, vectors, objectness, detector.text, novel)
        heads.objectness_exponent = 0.25
        score = heads.score(pooled, vectors, objectness, detector.text, novel)
    torch.testing.assert_close(score.exp(), without.exp() * torch.tensor([0.5, 0.2])[:, None] ** 0.25)


def test_words_of_ones_own_are_novel(world: World) -> None:
    """Words from the command line come without a word on novelty; what was trained is known by its name."""
    detector = tiny_vild(world, "ViLD_ensemble")
    assert detector.novel.tolist() == [False, False, True]
    detector.set_vocabulary(words(("unheard_of", WORDS[1], "red box"), novel=()))
    assert WORDS[0] == "red_box" and detector.novel.tolist() == [True, False, False]


def test_what_a_vocabulary_calls_novel_is_novel(world: World) -> None:
    detector = tiny_vild(world, "ViLD_ensemble")
    detector.set_vocabulary(words(novel=WORDS[:1]))
    assert detector.novel.tolist() == [True, False, True]


def test_words_of_another_encoder_are_refused(world: World) -> None:
    with pytest.raises(ValueError, match=f"text embeddings of width {WIDTH}; the vocabulary .* another text encoder"):
        tiny_vild(world, "ViLD").set_vocabulary(words(width=WIDTH + 1))


def test_a_detector_forgets_no_words_when_copied(world: World) -> None:
    """As for a moving average of the weights."""
    detector = tiny_vild(world, "ViLD_ensemble")
    assert found(copy.deepcopy(detector), [sample()]) == found(detector, [sample()])


def test_the_image_head_is_heard_in_the_ensemble_alone(world: World) -> None:
    assert [tiny_vild(world, name).roi_heads.image_head is None for name in NAMES] == [True, True, True, False]


# ---- what is refused ----


def test_objects_without_masks_are_refused_with_their_image(world: World) -> None:
    one = sample()
    one["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match="Image 0.jpg: its objects have no masks, but MODEL.MASK_ON"):
        training_losses(tiny_vild(world, "ViLD_text"), [one])
    losses = training_losses(tiny_vild(world, "ViLD_text", MODEL__MASK_ON=False), [one])
    assert MASKS not in losses


def test_a_class_outside_the_words_of_training_is_refused_with_its_image(world: World) -> None:
    one = sample()
    one["instances"].gt_classes[0] = 2
    with pytest.raises(ValueError, match="Image 0.jpg: class 2 is not among the 2 words of training"):
        training_losses(tiny_vild(world, "ViLD_text"), [one])


TEACHING, TERM = {"MODEL__TRAINING_EXTENSIONS": ["Distillation"]}, {"MODEL__KD__TERMS": ["embedding_l1"]}


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("ViLD", {"MODEL__VILD__FORM": "VILD"}, 'MODEL.VILD.FORM is "VILD"; choose one of ViLD-text, ViLD-image'),
        ("ViLD_text", {**TEACHING, **TERM}, r"MODEL.KD.TERMS is \['embedding_l1'\] with .*ViLD-text"),
        ("ViLD", {"MODEL__TRAINING_EXTENSIONS": ["Denoising"]}, 'MODEL.TRAINING_EXTENSIONS is "Denoising"; choose'),
        ("ViLD", {"MODEL__VILD__OBJECTNESS": -0.5}, "MODEL.VILD.OBJECTNESS must be 0 or more, got -0.5"),
        ("ViLD", {"MODEL__KD__TERMS": ["semantic"]}, r"MODEL.KD.TERMS is \['semantic'\] with MODEL.VILD.FORM"),
        ("ViLD", {"MODEL__KD__SLOT_FILTERS": ["unmatched"]}, 'take "unmatched" out of MODEL.KD.SLOT_FILTERS'),
        ("ViLD", {"MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK": False}, "set MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK"),
        ("ViLD", {"MODEL__TEACHER__NAME": "Nobody"}, 'MODEL.TEACHER.NAME is "Nobody"'),
        ("ViLD", {"MODEL__KD__ANNEAL__CURVE": "Steps"}, 'MODEL.KD.ANNEAL.CURVE is "Steps"; choose one of Constant'),
    ],
)
def test_what_does_not_go_together_is_refused_by_key(
    world: World, name: str, keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_vild(world, name, **keys)


def test_broken_weights_do_not_find_nothing_in_silence(world: World) -> None:
    detector = tiny_vild(world, "ViLD_text")
    with torch.no_grad():
        next(detector.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="Image 0.jpg: what the backbone sees is not finite"):
        detector([sample()])


def test_a_vocabulary_of_base_words_alone_will_do(world: World) -> None:
    detector = tiny_vild(world, "ViLD_ensemble")
    base: Vocabulary = detector.train_vocabulary
    detector.set_vocabulary(base)
    assert {name for name, *_ in found(detector, [sample()])[0]} <= set(base.names)
    assert detector.text.shape == (2, WIDTH)
