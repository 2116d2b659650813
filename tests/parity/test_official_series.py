"""The DETR series by the names of its authors' repositories, converted: the same boxes and logits as their formulas
give. Published files were not at hand.

What differs from the releases: DINO ranks proposals by all 91 outputs there, by those of COCO's categories here, and
logits of references are clamped at 1e-3 in the code of DAB, DN and DINO, at 1e-5 here.
"""

from collections.abc import Mapping
from functools import cache

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.convert import SOURCES, Conversion, convert
from dk_detr.engine import setup_cfg
from tests.model_fixtures import random
from tests.parity.detector import answer_of, detector_of
from tests.parity.formulas import Weights
from tests.parity.official import CLASSES, QUERIES, UNUSED
from tests.parity.official_series import PATTERNS, VARIANTS, released
from tests.parity.published import CHANNELS, DECODER_LAYERS, ENCODER_LAYERS, accounted
from tests.parity.series_formulas import Anchored, Answer, Dino, OneLevel
from tests.parity.test_official_naming import NAMES
from tests.run_fixtures import REPOSITORY

IMAGE = random(3, 96, 128, seed=1)
CONFIGS = {variant: f"configs/{variant}_R50.yaml" for variant in VARIANTS} | {"dino": "configs/dino_R50_4scale.yaml"}
OF_CATEGORIES = [number for number in range(CLASSES) if number not in UNUSED]
SIZES = (CHANNELS, ENCODER_LAYERS, DECODER_LAYERS)
LABELS = {  # of denoising, which only training has
    "dn_detr": "extensions.Denoising.content.weight",
    "dn_deformable_detr": "extensions.Denoising.content.weight",
    "dino": "extensions.ContrastiveDenoising.content.weight",
}
each_variant = pytest.mark.parametrize("variant", VARIANTS)
with_labels = pytest.mark.parametrize("variant", LABELS)


@cache
def conversion(variant: str, patterns: bool = False) -> Conversion:
    return convert(VARIANTS[variant], released(variant, patterns), {"MODEL.DETR.NUM_HEADS": 8})


def answer(weights: Weights, variant: str, patterns: bool = False) -> Answer:
    """(D, Q, 91 or 92) logits and (D, Q, 4) boxes, by the formulas."""
    if variant == "detr":
        return OneLevel(weights, *SIZES).detr(IMAGE)
    if variant == "conditional_detr":
        return OneLevel(weights, *SIZES).conditional(IMAGE)
    if variant == "dino":
        return Dino(weights, NAMES, *SIZES).dino(IMAGE, OF_CATEGORIES)
    box, content = weights["refpoint_embed.weight"].sigmoid(), content_of(weights, variant)
    if patterns:
        name = "patterns_embed.weight" if "deformable" in variant else "transformer.patterns.weight"
        content = torch.cat([content + row for row in weights[name]])
        box = torch.cat([box] * PATTERNS)
    if "deformable" in variant:
        return Anchored(weights, NAMES, *SIZES).dab(IMAGE, content, box)
    return OneLevel(weights, *SIZES, temperature=20.0).dab(IMAGE, content, box)


def content_of(weights: Weights, variant: str) -> Tensor:
    """(Q, C)."""
    if variant == "dab_detr":
        return torch.zeros(QUERIES, CHANNELS)
    if variant == "dab_deformable_detr":
        return weights["tgt_embed.weight"]
    rows = weights["label_enc.weight"][-1:] if variant == "dn_detr" else weights["tgt_embed.weight"]
    return torch.cat([rows.expand(QUERIES, -1), torch.zeros(QUERIES, 1)], dim=1)


def assert_same(variant: str, patterns: bool = False) -> None:
    weights = Weights(released(variant, patterns))
    with torch.no_grad():
        logits, boxes = answer(weights, variant, patterns)
    outputs = [*OF_CATEGORIES, CLASSES] if variant == "detr" else OF_CATEGORIES
    mine = answer_of(detector_of(conversion(variant, patterns)), IMAGE)
    assert mine[1].shape == (DECODER_LAYERS, QUERIES * (PATTERNS if patterns else 1), 4)
    torch.testing.assert_close(mine[0], logits[..., outputs], atol=1e-4, rtol=0)
    torch.testing.assert_close(mine[1], boxes, atol=1e-4, rtol=0)
    found = conversion(variant, patterns)
    training = {name for name, targets in found.used.items() if set(targets) <= {*LABELS.values()}}
    assert set(found.used) - training == weights.asked


@each_variant
def test_boxes_and_logits_of_all_layers_are_those_of_the_formulas(variant: str) -> None:
    assert_same(variant)


@pytest.mark.parametrize("variant", ["dab_detr", "dab_deformable_detr", "dn_detr"])
def test_patterns_become_queries_of_their_own(variant: str) -> None:
    assert_same(variant, patterns=True)


@each_variant
def test_every_tensor_of_the_release_is_used_or_listed(variant: str) -> None:
    found = conversion(variant)
    assert accounted(found.used, found.listed) == set(released(variant))
    assert found.config == CONFIGS[variant]


@each_variant
def test_the_config_that_is_named_has_the_same_parts(variant: str) -> None:
    """Its numbers may be others."""
    cfg = setup_cfg(str(REPOSITORY / conversion(variant).config))
    parts = {key: value for key, value in conversion(variant).settings.items() if isinstance(value, str | list)}
    assert {"MODEL.DETR.QUERIES", "MODEL.DETR.POSITION", "MODEL.DETR.CLASSIFIER.NAME"} <= set(parts)
    assert parts == {key: setting(cfg, key) for key in parts}


def setting(cfg: CfgNode, key: str) -> object:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


# ---- labels of denoising ----


@with_labels
def test_labels_of_denoising_go_by_category_and_carry_the_indicator(variant: str) -> None:
    labels = released(variant)["label_enc.weight"][OF_CATEGORIES]
    mine = conversion(variant).state[LABELS[variant]]
    indicator = torch.ones(80, 0 if variant == "dino" else 1)
    assert torch.equal(mine, torch.cat([labels, indicator], dim=1)) and mine.shape == (80, CHANNELS)


@with_labels
def test_rows_of_labels_that_are_no_class_are_listed(variant: str) -> None:
    rows = [name for name in conversion(variant).listed if name.startswith("label_enc.weight[")]
    numbers = {int(number) for name in rows for number in name.partition("[")[2].rstrip("]").split(", ")}
    assert numbers == {*UNUSED} | ({CLASSES} if variant != "dn_detr" else set())


def test_the_content_of_matched_queries_is_the_last_row_with_indicator_0() -> None:
    content = conversion("dn_detr").state["queries.content.weight"]
    last = released("dn_detr")["label_enc.weight"][-1]
    assert content.shape == (1, CHANNELS) and torch.equal(content[0, :-1], last) and content[0, -1] == 0


def few_classes(variant: str, number: int = 5) -> dict[str, Tensor]:
    """Fine-tuned on so many: heads have an output for each."""
    return {name: t[:number] if "class_embed" in name else t for name, t in released(variant).items()}


def test_labels_of_a_detector_for_few_classes_are_its_first_ones() -> None:
    found = convert("dino", few_classes("dino"))
    assert torch.equal(found.state[LABELS["dino"]], released("dino")["label_enc.weight"][:5])
    assert len(found.state["queries.objectness.weight"]) == 5


def test_labels_that_are_too_few_are_for_training_only() -> None:
    found = convert("dino", {**few_classes("dino"), "label_enc.weight": random(3, CHANNELS)})
    assert found.settings["MODEL.TRAINING_EXTENSIONS"] == [] and "training only" in found.listed["label_enc.weight"]
    assert not [name for name in found.state if name.startswith("extensions.")]


def test_labels_of_dn_detr_that_do_not_fit_its_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="label_enc.weight has 92 rows for the 5 classes"):
        convert("dn-detr", few_classes("dn_detr"))


# ---- heads ----


def test_detrs_last_output_is_no_object() -> None:
    bias = conversion("detr").state["classifier.projections.0.bias"]
    assert len(bias) == 81 and bias[-1] == released("detr")["class_embed.bias"][91]
    assert any("share in the softmax" in note for note in conversion("detr").notes)
    assert any("80 of COCO" in note for note in conversion("detr").notes)


def test_detr_on_other_classes_has_one_output_less_than_its_head() -> None:
    found = convert("detr", few_classes("detr", 6))
    assert "The 5 classes must be named" in " ".join(found.notes) and not found.listed


def test_dinos_heads_of_layers_may_differ() -> None:
    state = dict(released("dino"))
    for prefix in ("", "transformer.decoder."):
        state[f"{prefix}bbox_embed.1.layers.2.bias"] = random(4)
    found = convert("dino", state)
    assert found.settings["MODEL.DETR.HEADS"] == "PerLayer"
    assert torch.equal(found.state["decoder.box_heads.1.layers.2.bias"], random(4))


# ---- what no shape tells ----


@pytest.mark.parametrize("source", sorted(set(VARIANTS.values())))
def test_what_the_arguments_tell_is_taken(source: str) -> None:
    known = SOURCES[source].known_settings({"nheads": 4, "pe_temperatureH": 10, "pe_temperatureW": 10, "lr": 1})
    temperature = {} if source in ("detr", "conditional-detr") else {"MODEL.DETR.SINE.TEMPERATURE": 10.0}
    assert known == {"MODEL.DETR.NUM_HEADS": 4, **temperature}


def test_the_temperature_is_of_dense_attention_alone() -> None:
    """The code with deformable attention has Deformable DETR's codes, whatever the arguments."""
    known = {"MODEL.DETR.SINE.TEMPERATURE": 20.0}
    for variant, has_it in (("dab_detr", True), ("dab_deformable_detr", False), ("dn_deformable_detr", False)):
        settings = convert(VARIANTS[variant], released(variant), known).settings
        assert ("MODEL.DETR.SINE.TEMPERATURE" in settings) == has_it


@pytest.mark.parametrize(
    "told, message",
    [
        ({"dilation": True}, "DC5"),
        ({"transformer_activation": "gelu"}, 'the activation "gelu"'),
        ({"pe_temperatureH": 20, "pe_temperatureW": 10}, "two temperatures"),
    ],
)
def test_what_cannot_be_built_is_refused(told: Mapping[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SOURCES["dab-detr"].known_settings(told)
