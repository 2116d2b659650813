"""From a config to a detector: the parts are as asked for, and bad combinations are refused by both their names."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from torch.nn import functional as F

from dk_detr import add_dk_detr_config
from dk_detr.criterion import CLASS_LOSSES, CrossEntropy, Focal
from dk_detr.distillation import Anneal, SelectedAuxiliaryQueries, StoredEmbeddings, TermSettings
from dk_detr.distillation.from_config import term_settings
from dk_detr.distillation.teachers import clip_crops
from dk_detr.language import save_vocabulary
from dk_detr.meta_arch import DETR, build
from dk_detr.modeling import BOX_PARAMETERIZATIONS, CLASSIFIERS, CosineText, CosineTextEnsemble, Linear
from dk_detr.modeling.acceleration import Compiled
from dk_detr.structures import Vocabulary
from tests.model_fixtures import WIDTH, TwoConvolutions, random, tiny_clip, tiny_vocabulary

SMALL = {
    "IN_FEATURES": ["fine", "coarse"], "CHANNELS": 32, "NUM_QUERIES": 12, "NUM_HEADS": 4, "NUM_POINTS": 2,
    "ENCODER_LAYERS": 1, "DECODER_LAYERS": 2, "FFN_CHANNELS": 48,
}  # fmt: skip


@pytest.fixture
def cfg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CfgNode:
    """A small detector that is taught everything by the stand-in for CLIP."""
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    cfg.MODEL.DETR.update(SMALL)
    cfg.MODEL.VOCABULARY.TEST = str(tmp_path / "words.npz")
    cfg.MODEL.TRAINING_EXTENSIONS = ["Distillation"]
    cfg.MODEL.KD.TERMS = ["semantic", "relational", "embedding_l1"]
    save_vocabulary(tiny_vocabulary(), cfg.MODEL.VOCABULARY.TEST)
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: tiny_clip())
    return cfg


def detector(cfg: CfgNode) -> DETR:
    return DETR(**build.parts_from_config(cfg, TwoConvolutions()))


def test_the_numbers_of_the_config_reach_the_parts(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.NUM_EXTRA_LEVELS = 2
    cfg.MODEL.KD.NUM_SLOTS, cfg.MODEL.KD.SLOT_FILTERS = 7, ["unmatched", "duplicates"]
    cfg.MODEL.KD.ATTENDS_TO, cfg.MODEL.KD.REFERENCE, cfg.MODEL.KD.LAYERS = ["auxiliary", "detection"], "stay", "all"
    cfg.MODEL.TEACHER.CROP_SCALES = [1.0, 1.5]
    cfg.MODEL.DETR.MATCHER.L1, cfg.MODEL.DETR.LOSS.WEIGHTS.GIOU = 6.0, 3.0
    built = detector(cfg)
    assert built.neck.num_levels == 4 and built.decoder.layers[0].cross_attention.num_levels == 4
    distillation = built.extensions["Distillation"]
    queries, slots = distillation.queries, distillation.queries.slots
    assert built.queries.num_queries == len(queries.content.weight) == 12
    assert slots.num_slots == 7 and slots.filters == ("unmatched", "duplicates")
    assert (queries.attends_to, queries.reference_from) == (("auxiliary", "detection"), None)
    assert distillation.layers == "all" and queries.teacher.crop_scales == (1.0, 1.5)
    assert built.criterion.matcher.costs["l1"] == 6.0 and built.criterion.weights["giou"] == 3.0
    names = [term.name for term in distillation.terms]
    assert names == ["semantic", "relational_image", "relational_batch", "embedding_l1"]
    assert distillation.terms[-1].weight == 0.5


def test_each_number_of_distillation_reaches_its_own_place(cfg: CfgNode) -> None:
    kd = cfg.MODEL.KD
    kd.BASE_OVERLAP_IOU, kd.DUPLICATES_IOU, kd.MIN_SIDE = 0.3, 0.6, 9.0
    kd.SEMANTIC.TEMPERATURE, kd.RELATIONAL.TEMPERATURE = 0.2, 0.4
    kd.SEMANTIC.WEIGHT, kd.RELATIONAL.WEIGHT, kd.EMBEDDING_L1.WEIGHT = 2.0, 3.0, 4.0
    kd.RELATIONAL.DIRECTION, kd.RELATIONAL.SCOPES = "student_teacher", ["batch"]
    kd.ANNEAL.CURVE, kd.ANNEAL.FROM, kd.ANNEAL.TO, cfg.SOLVER.MAX_ITER = "Cosine", 0.9, 0.1, 70
    distillation = detector(cfg).extensions["Distillation"]
    assert distillation.anneal == Anneal("Cosine", 0.9, 0.1, 70)
    slots = distillation.queries.slots
    assert (slots.base_overlap_iou, slots.duplicates_iou, slots.min_side) == (0.3, 0.6, 9.0)
    weights = {"semantic": 2.0, "relational": 3.0, "embedding_l1": 4.0}
    assert term_settings(cfg) == TermSettings(weights, 0.2, 0.4, "student_teacher", ("batch",))


def test_the_first_stage_has_weights_of_its_own_and_the_square_is_that_of_the_config(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    detr.LOSS.WEIGHTS.GIOU, detr.LOSS.FIRST_STAGE_WEIGHTS.GIOU, detr.PADDED_SIZE = 3.0, 4.0, 1536
    built = detector(cfg)
    assert (built.criterion.weights["giou"], built.proposal_criterion.weights["giou"]) == (3.0, 4.0)
    assert built.padded_size == 1536


def test_the_decoder_makes_boxes_by_the_parameterization_of_the_config(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(BOX_PARAMETERIZATIONS["Logits"]):
        """An entry of a project."""

    monkeypatch.setitem(BOX_PARAMETERIZATIONS, "Other", Other)
    for refinement in ("Iterative", "LookForwardTwice"):
        cfg.MODEL.DETR.BOXES, cfg.MODEL.DETR.REFINEMENT = "Other", refinement
        assert type(detector(cfg).decoder.refinement.boxes) is Other


def test_terms_alone_make_neither_distillation_nor_a_teacher(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    cfg.MODEL.TRAINING_EXTENSIONS = []
    built = detector(cfg)
    assert not len(built.extensions)
    assert not [key for key in built.state_dict() if key.startswith("extensions")]


def test_distillation_without_terms_is_refused_by_both_keys(cfg: CfgNode) -> None:
    cfg.MODEL.KD.TERMS = []
    message = r'MODEL\.TRAINING_EXTENSIONS names "Distillation", but MODEL\.KD\.TERMS is \[\]: .* "Distillation" out'
    with pytest.raises(ValueError, match=message):
        detector(cfg)


def test_training_takes_the_base_words_of_the_vocabulary(cfg: CfgNode) -> None:
    built = detector(cfg)
    assert built.train_vocabulary.names == ("word 0", "word 2", "word 3")
    assert built.vocabulary.names == tiny_vocabulary().names


def test_the_teacher_reads_the_channels_in_the_order_of_the_input(cfg: CfgNode) -> None:
    for order, bgr in (("RGB", False), ("BGR", True)):
        cfg.INPUT.FORMAT = order
        assert detector(cfg).extensions["Distillation"].queries.teacher.bgr is bgr


def test_a_teacher_of_another_width_than_the_words_is_refused(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: tiny_clip(width=8))
    with pytest.raises(ValueError, match=r"\(MODEL\.CLIP\) gives .* width 8, but MODEL\.VOCABULARY\.TEST has width 16"):
        detector(cfg)


def test_words_of_training_and_test_from_different_encoders_are_refused(cfg: CfgNode, tmp_path: Path) -> None:
    cfg.MODEL.VOCABULARY.TRAIN = str(tmp_path / "narrow.npz")
    narrow = Vocabulary(("a",), F.normalize(random(1, WIDTH // 2), dim=1), torch.zeros(1, dtype=torch.bool))
    save_vocabulary(narrow, cfg.MODEL.VOCABULARY.TRAIN)
    with pytest.raises(ValueError, match=r"MODEL\.VOCABULARY\.TRAIN .* and MODEL\.VOCABULARY\.TEST .* widths differ"):
        detector(cfg)


@pytest.mark.parametrize(
    ("node", "key", "value", "message"),
    [
        ("DETR", "DECODER_LAYERS", 0, "MODEL.DETR.DECODER_LAYERS must be at least 1, got 0"),
        ("DETR", "QUERIES", "Points", 'MODEL.DETR.QUERIES is "Points"; choose one of Proposals, Mixed, Learned'),
        ("DETR", "REFINEMENT", "Never", 'MODEL.DETR.REFINEMENT is "Never"; choose one of Direct, FromReference'),
        ("DETR", "HEADS", "Few", 'MODEL.DETR.HEADS is "Few"; choose one of PerLayer, Shared'),
        ("DETR", "NUM_HEADS", 5, "32 channels do not divide among 5 heads"),
        ("DETR", "IN_FEATURES", ["fine", "res5"], r"MODEL.DETR.IN_FEATURES names \['res5'\]"),
        ("LOSS", "CLASS", "Hinge", 'MODEL.DETR.LOSS.CLASS is "Hinge"; choose one of Focal, CrossEntropy, BoxesOnly'),
        ("LOSS", "NEGATIVES", "None", 'LOSS.NEGATIVES is "None"; choose one of All, Federated, OtherClusters'),
        ("KD", "TERMS", ["semantic", "magic"], 'MODEL.KD.TERMS is "magic"'),
        ("KD", "ATTENDS_TO", ["everybody"], 'MODEL.KD.ATTENDS_TO is "everybody"'),
        ("KD", "REFERENCE", "wander", 'MODEL.KD.REFERENCE is "wander"'),
        ("KD", "LAYERS", "first", 'MODEL.KD.LAYERS is "first"'),
        ("KD", "SLOT_FILTERS", ["novel"], r"MODEL.KD.SLOT_FILTERS knows .* not \['novel'\]"),
        ("KD", "NUM_SLOTS", 0, "MODEL.KD.NUM_SLOTS must be at least 1, got 0"),
        (
            "KD", "QUERIES", "Some",
            'MODEL.KD.QUERIES is "Some"; choose one of Auxiliary, SelectedAuxiliary, Detection, ROIHead',
        ),
        (
            "TEACHER",
            "NAME",
            "Nobody",
            'MODEL.TEACHER.NAME is "Nobody"; choose one of CLIPCrops, CLIPRegions, EmbeddingBank',
        ),
        ("TEACHER", "DTYPE", "int8", 'MODEL.TEACHER.DTYPE is "int8"; choose one of auto, float32, bfloat16'),
        ("TEACHER", "CROP_SCALES", [0.0], "MODEL.TEACHER.CROP_SCALES needs positive numbers"),
    ],
    ids=lambda value: str(value),
)
def test_bad_values_are_refused_when_built(cfg: CfgNode, node: str, key: str, value: object, message: str) -> None:
    (cfg.MODEL.DETR.LOSS if node == "LOSS" else cfg.MODEL[node])[key] = value
    with pytest.raises(ValueError, match=message):
        detector(cfg)


def test_selected_auxiliary_queries_and_a_bank_are_built_from_the_config_and_need_no_clip(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    kd, cfg.MODEL.TEACHER.NAME = cfg.MODEL.KD, "EmbeddingBank"
    kd.QUERIES, kd.REFERENCE, kd.SLOT_FILTERS, kd.NUM_SLOTS = "SelectedAuxiliary", "stay", ["base_overlap"], 7
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    queries = detector(cfg).extensions["Distillation"].queries
    assert isinstance(queries, SelectedAuxiliaryQueries) and isinstance(queries.teacher, StoredEmbeddings)
    assert len(queries.content.weight) == 7 and queries.teacher.width == WIDTH


def test_the_teacher_is_compiled_and_computes_in_half_floats_where_the_config_says_so(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.COMPILED, cfg.MODEL.TEACHER.DTYPE = ["teacher"], "bfloat16"
    teacher = detector(cfg).extensions["Distillation"].queries.teacher
    assert isinstance(teacher.encode, Compiled) and teacher.dtype == torch.bfloat16
    cfg.MODEL.DETR.COMPILED, cfg.MODEL.TEACHER.DTYPE, cfg.MODEL.DEVICE = [], "auto", "cpu"
    teacher = detector(cfg).extensions["Distillation"].queries.teacher
    assert not isinstance(teacher.encode, Compiled) and teacher.dtype == torch.float32


def test_a_bad_anneal_is_refused_before_the_teacher_is_loaded(cfg: CfgNode, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg.MODEL.KD.ANNEAL.TO = 0.5
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    with pytest.raises(ValueError, match='MODEL.KD.ANNEAL.CURVE "Constant" does not read MODEL.KD.ANNEAL.FROM 1.0'):
        detector(cfg)


@pytest.mark.parametrize(
    ("kd", "teacher", "keys"),
    [
        ({"QUERIES": "SelectedAuxiliary", "REFERENCE": "stay"}, "CLIPCrops", ("KD.QUERIES", "KD.SLOT_FILTERS")),
        ({"QUERIES": "SelectedAuxiliary", "SLOT_FILTERS": []}, "CLIPCrops", ("KD.QUERIES", "KD.REFERENCE")),
        ({}, "EmbeddingBank", ("TEACHER.NAME", "KD.QUERIES")),
        ({"QUERIES": "Detection"}, "EmbeddingBank", ("TEACHER.NAME", "KD.QUERIES")),
    ],
    ids=lambda value: str(value),
)
def test_what_does_not_go_together_is_refused_by_both_keys(
    cfg: CfgNode, kd: dict[str, Any], teacher: str, keys: tuple[str, str]
) -> None:
    cfg.MODEL.KD.update(kd)
    cfg.MODEL.TEACHER.NAME = teacher
    with pytest.raises(ValueError, match=rf"MODEL\.{keys[0]}.*MODEL\.{keys[1]}"):
        detector(cfg)


PARTS = {
    ("Learned", "FromReference", "Shared"): [-2.0],  # the three of Deformable DETR, and how their heads start
    ("Learned", "Iterative", "PerLayer"): [-2.0, 0.0],
    ("Proposals", "Iterative", "PerLayer"): [0.0, 0.0],
}


@pytest.mark.parametrize(("names", "sides"), PARTS.items(), ids=["one stage", "refined", "two stages"])
def test_a_detector_is_put_together_by_the_names_of_its_parts(
    cfg: CfgNode, names: tuple[str, ...], sides: list[float]
) -> None:
    detr, cfg.MODEL.TRAINING_EXTENSIONS = cfg.MODEL.DETR, []
    detr.QUERIES, detr.REFINEMENT, detr.HEADS = names
    detr.CLASSIFIER.NAME = "Linear"
    built = detector(cfg)
    assert type(built.queries).__name__ == names[0] and type(built.decoder.refinement).__name__ == names[1]
    assert [head.layers[-1].bias[2].item() for head in built.decoder.box_heads] == sides
    assert len(built.classifier.projections) == len(sides)
    assert isinstance(built.classifier, Linear) and built.classifier.width == len(tiny_vocabulary())


def test_the_text_classifier_has_its_settings_from_the_config(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.CLASSIFIER.TEMPERATURE, cfg.MODEL.DETR.CLASSIFIER.LOGIT_BIAS = 0.1, -2.0
    classifier = detector(cfg).classifier
    assert (classifier.width, classifier.temperature, classifier.logit_bias) == (WIDTH, 0.1, -2.0)


def test_an_ensemble_and_its_loss_have_their_settings_from_the_config(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    detr.CLASSIFIER.NAME, detr.LOSS.CLASS = "CosineTextEnsemble", "CrossEntropy"
    detr.CLASSIFIER.TEMPERATURE, detr.CLASSIFIER.HOME_WEIGHT, detr.LOSS.NO_OBJECT_WEIGHT = 0.02, 0.75, 0.3
    built = detector(cfg)
    assert isinstance(built.classifier, CosineTextEnsemble)
    assert (built.classifier.width, built.classifier.temperature, built.classifier.home_weight) == (WIDTH, 0.02, 0.75)
    assert len(built.classifier.projections) == len(built.classifier.image_projections) == 2
    assert built.criterion.matcher.terms["class"] == CrossEntropy(0.3)


def test_the_first_stage_learns_objectness_by_the_focal_loss_whatever_the_classes_learn(cfg: CfgNode) -> None:
    for name, loss in (("CosineText", "Focal"), ("CosineTextBackground", "CrossEntropy")):
        cfg.MODEL.DETR.CLASSIFIER.NAME, cfg.MODEL.DETR.LOSS.CLASS = name, loss
        assert detector(cfg).proposal_criterion.matcher.terms["class"] == Focal()


FITTING = {
    ("CosineText", "Focal"), ("Linear", "Focal"), ("CosineTextBackground", "CrossEntropy"),
    ("CosineTextEnsemble", "CrossEntropy"), ("CosineTextObjectness", "BoxesOnly"), ("LinearBackground", "CrossEntropy"),
}  # fmt: skip


@pytest.mark.parametrize("loss", CLASS_LOSSES)
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_loss_that_is_not_for_the_classifier_is_refused_by_both_keys(cfg: CfgNode, name: str, loss: str) -> None:
    cfg.MODEL.DETR.CLASSIFIER.NAME, cfg.MODEL.DETR.LOSS.CLASS, cfg.MODEL.TRAINING_EXTENSIONS = name, loss, []
    if (name, loss) in FITTING:
        detector(cfg)
        return
    (other,) = (fits for classifier, fits in FITTING if classifier == name)
    message = f'LOSS.CLASS "{loss}" is not for MODEL.DETR.CLASSIFIER.NAME "{name}": choose the loss "{other}"'
    with pytest.raises(ValueError, match=message):
        detector(cfg)


def test_objectness_of_a_detector_of_one_stage_is_refused_by_both_keys(cfg: CfgNode) -> None:
    detr, cfg.MODEL.TRAINING_EXTENSIONS = cfg.MODEL.DETR, []
    detr.CLASSIFIER.NAME, detr.LOSS.CLASS, detr.QUERIES = "CosineTextObjectness", "BoxesOnly", "Learned"
    with pytest.raises(ValueError, match='"CosineTextObjectness" asks the first stage.*MODEL.DETR.QUERIES "Learned"'):
        detector(cfg)


def test_an_unknown_classifier_is_refused_by_name(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.CLASSIFIER.NAME = "Softmax"
    with pytest.raises(ValueError, match='CLASSIFIER.NAME is "Softmax"; choose one of CosineText, Linear'):
        detector(cfg)


def test_distillation_into_a_detector_without_proposals_is_refused_by_both_names(
    cfg: CfgNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_crops, "clip_from_config", lambda cfg: pytest.fail("CLIP was loaded for nothing."))
    cfg.MODEL.DETR.QUERIES = "Learned"
    with pytest.raises(ValueError, match='TRAINING_EXTENSIONS names "Distill.*DETR.QUERIES "Learned" proposes no'):
        detector(cfg)


def test_distillation_into_a_closed_detector_is_refused_by_both_names(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.CLASSIFIER.NAME = "Linear"
    with pytest.raises(ValueError, match='TRAINING_EXTENSIONS names "Distill.*CLASSIFIER.NAME "Linear" has no space'):
        detector(cfg)


# ---- ranges, and what the backbone gives ----


@pytest.mark.parametrize(
    ("key", "value"), [
        ("CLASSIFIER.TEMPERATURE", 0.0), ("ANCHOR_SIZE", 0.99), ("ANCHOR_SIZE", 0.0), ("NUM_QUERIES", 0),
        ("CLASSIFIER.NOVEL_OBJECTNESS", -0.5), ("CLASSIFIER.BASE_OBJECTNESS", -0.5), ("CLASSIFIER.WORD_SHARE", -1.0),
        ("QUALITY.WEIGHT", -1.0), ("QUALITY.EXPONENT", float("nan")),
    ],
)  # fmt: skip
def test_numbers_that_would_make_losses_no_numbers_are_refused_by_key(cfg: CfgNode, key: str, value: Any) -> None:
    cfg.merge_from_list([f"MODEL.DETR.{key}", value])
    with pytest.raises(ValueError, match=f"MODEL.DETR.{key} must .* got {value}"):
        detector(cfg)


@pytest.mark.parametrize(
    ("extension", "key"),
    [
        ("Denoising", "DENOISING.GROUPS"), ("BoxDenoising", "BOX_DENOISING.GROUPS"),
        ("ContrastiveDenoising", "CONTRASTIVE_DENOISING.QUERIES"),
        ("OneToMany", "ONE_TO_MANY.QUERIES"), ("OneToMany", "ONE_TO_MANY.COPIES"),
    ],
)  # fmt: skip
def test_an_extension_with_nothing_is_refused_by_key(cfg: CfgNode, extension: str, key: str) -> None:
    cfg.MODEL.TRAINING_EXTENSIONS = [extension]
    cfg.merge_from_list([f"MODEL.DETR.{key}", 0])
    with pytest.raises(ValueError, match=f"MODEL.DETR.{key} must be at least 1, got 0"):
        detector(cfg)


@pytest.mark.parametrize(
    ("read", "given", "kept"),
    [
        (["res3", "res4"], ["res2", "res3", "res4", "res5"], ["res2", "res3", "res4"]),
        (["res5"], ["res5"], ["res5"]),
        (["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"], ["res2", "res3", "res4", "res5"]),
    ],
)
def test_finer_stages_than_the_neck_reads_stay_and_those_that_no_loss_would_reach_go(
    cfg: CfgNode, read: list[str], given: list[str], kept: list[str]
) -> None:
    cfg.MODEL.DETR.IN_FEATURES, cfg.MODEL.RESNETS.OUT_FEATURES = read, given
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.RESNETS.DEPTH = "build_resnet_backbone", 50
    backbone = build.backbone_from_config(cfg)
    assert list(backbone.output_shape()) == kept
    assert any(name.startswith("res5") for name, _ in backbone.named_parameters()) is ("res5" in kept)


@pytest.mark.parametrize("iou", [0.0, 1.5])
def test_an_iou_of_nms_that_is_none_is_refused_by_key(cfg: CfgNode, iou: float) -> None:
    cfg.MODEL.DETR.NMS_IOU = iou
    with pytest.raises(ValueError, match=f"MODEL.DETR.NMS_IOU is an IoU above 0 and at most 1, .* got {iou}"):
        detector(cfg)


def test_objectness_without_a_first_stage_is_refused_by_both_keys(cfg: CfgNode) -> None:
    cfg.MODEL.TRAINING_EXTENSIONS, cfg.MODEL.DETR.QUERIES = [], "Learned"
    cfg.MODEL.DETR.CLASSIFIER.NOVEL_OBJECTNESS = 0.25
    with pytest.raises(ValueError, match='NOVEL_OBJECTNESS 0.25 asks the first stage .*"Learned" has none'):
        detector(cfg)


@pytest.mark.parametrize("key", CosineText.exponents)
def test_an_exponent_of_scores_that_are_not_its_own_is_refused_by_both_keys(cfg: CfgNode, key: str) -> None:
    cfg.merge_from_list(["MODEL.DETR.CLASSIFIER.NAME", "CosineTextBackground", "MODEL.DETR.LOSS.CLASS", "CrossEntropy"])
    cfg.merge_from_list([f"MODEL.DETR.CLASSIFIER.{key}", 0.5])
    with pytest.raises(ValueError, match=f'{key} 0.5 is for .*NAME "CosineText", not of "CosineTextBackground"'):
        detector(cfg)
