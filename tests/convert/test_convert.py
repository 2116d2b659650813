"""What every conversion keeps: nothing foreign, nothing missing, nothing of another shape; errors name the tensor."""

import re
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from dk_detr.convert import SOURCES, convert, deformable, deformable_detr, hf_deformable_detr, likely_source
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from tests.model_fixtures import random
from tests.parity import adamixer_formulas, official, official_series, opera
from tests.parity.published import filled, resnet

STATES: dict[str, Mapping[str, Tensor]] = {
    "deformable-detr": official.released("two_stage"),
    "opera-dk-detr": opera.released(),
    "opera-soit": opera.soit(),
    "adamixer": adamixer_formulas.released(),
    "torchvision-resnet": filled(resnet("", frozen=False)),
    **{source: official_series.released(variant) for variant, source in official_series.VARIANTS.items()},
}
each_source = pytest.mark.parametrize("source", STATES)
ONE_STAGE, TWO_STAGE = official.released("one_stage"), official.released("two_stage")
NORM = "transformer.encoder.layers.1.norm1.weight"
MISSING = [
    NORM, "transformer.level_embed", "transformer.decoder.layers.0.cross_attn.attention_weights.weight",
    "transformer.decoder.layers.0.linear1.weight", "input_proj.1.0.bias", "input_proj.1.0.weight",
    "backbone.0.body.layer3.1.bn2.running_var", "backbone.0.body.conv1.weight", "backbone.0.body.layer2.0.conv2.weight",
    "transformer.pos_trans_norm.bias", "transformer.decoder.layers.2.self_attn.in_proj_bias",
]  # fmt: skip


def refusal(state: Mapping[str, Tensor], source: str = "deformable-detr") -> str:
    with pytest.raises(ValueError) as error:
        convert(source, state)
    return str(error.value)


def without(state: Mapping[str, Tensor], *prefixes: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.startswith(prefixes)}


@each_source
def test_the_names_tell_the_source(source: str) -> None:
    assert likely_source(STATES[source]) == source


@pytest.mark.parametrize("variant, source", official_series.VARIANTS.items())
def test_the_names_tell_the_detectors_of_the_series_apart(variant: str, source: str) -> None:
    assert likely_source(official_series.released(variant)) == source


@pytest.mark.parametrize("variant, source", official_series.VARIANTS.items())
def test_whatever_a_detector_of_the_series_lacks_is_named(variant: str, source: str) -> None:
    """Of all but backbone and layers, and of these one of each kind; with copies, which would do. Labels of denoising
    are what tells DN-DETR, and of DINO's heads there is one for each layer."""
    state, copies = official_series.released(variant), ("class_embed", "bbox_embed") if variant == "dino" else ()
    for name in state:
        head = name.removeprefix("transformer.decoder.")
        if "backbone" in name or re.search(r"layers\.[1-9]|norm|bias|linear|ca_|sa_", name) or head.startswith(copies):
            continue
        message = refusal(without(state, head, f"transformer.decoder.{head}"), source)
        assert head in message or (name == "label_enc.weight" and "they look like dab-detr" in message)


@each_source
def test_a_wrong_source_is_told_from_the_names(source: str) -> None:
    for other in set(SOURCES) - {source}:
        assert f"not the names of {other}: they look like {source}" in refusal(STATES[source], other)


def test_names_of_no_source_are_shown() -> None:
    assert "they look like no source of" in (message := refusal({"linear.weight": random(1)}))
    assert "The first are linear.weight." in message


def test_a_source_that_does_not_exist_is_refused() -> None:
    assert 'There is no source "caffe"; choose one of hf-detr, hf-conditional-detr,' in refusal({}, "caffe")


@each_source
def test_a_tensor_that_no_rule_knows_is_named(source: str) -> None:
    assert "no rule for 1 of" in (message := refusal({**STATES[source], "kd.query.weight": random(3, 2)}, source))
    assert "kd.query.weight (3, 2)" in message


def test_it_is_listed_where_the_user_says_so() -> None:
    found = convert("deformable-detr", {**TWO_STAGE, "kd.query.weight": random(3, 2)}, leave=["kd."])
    assert found.listed["kd.query.weight"] == "left out on request"


@pytest.mark.parametrize("name", MISSING)
def test_a_tensor_that_the_others_imply_is_missed_by_its_name(name: str) -> None:
    assert name in refusal(without(TWO_STAGE, name))


def test_a_missing_tensor_is_named_on_both_sides() -> None:
    message = refusal(without(TWO_STAGE, NORM))
    assert message.startswith("encoder.layers.1.norm.weight cannot be filled: its source ")
    assert message.endswith(f" {NORM} is not among the {len(TWO_STAGE) - 1} tensors.")


def test_a_missing_layer_between_others_is_missed() -> None:
    message = refusal(without(TWO_STAGE, "transformer.encoder.layers.0."))
    assert message.startswith("encoder.layers.0.attention.sampling_offsets.weight cannot be filled")
    assert "(16 such tensors)" in message


def test_a_missing_head_is_missed() -> None:
    assert "bbox_embed.1.layers.0.weight is missing" in refusal(
        without(TWO_STAGE, "bbox_embed.1.", "transformer.decoder.bbox_embed.1.")
    )


def test_missing_queries_are_missed() -> None:
    assert "query_embed.weight" in refusal(without(ONE_STAGE, "query_embed."))
    assert "transformer.reference_points.weight" in refusal(without(ONE_STAGE, "transformer.reference_points."))


def test_a_neck_without_levels_is_missed() -> None:
    assert "neck.mappers.0.0.weight cannot be filled" in refusal(without(TWO_STAGE, "input_proj."))


@pytest.mark.parametrize("name", [NORM, "transformer.decoder.layers.1.linear1.weight", "input_proj.2.0.weight"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(name: str) -> None:
    state = {**TWO_STAGE, name: TWO_STAGE[name][:-2]}
    message = refusal(state)
    assert str(tuple(state[name].shape)) in message and str(tuple(TWO_STAGE[name].shape)) in message


def test_layers_beyond_the_last_are_seen() -> None:
    more = {name.replace("layers.1.", "layers.3."): t for name, t in TWO_STAGE.items() if "encoder.layers.1." in name}
    assert "encoder.layers.2." in refusal({**TWO_STAGE, **more})


@each_source
def test_tensors_are_copies(source: str) -> None:
    state = {name: tensor.clone() for name, tensor in STATES[source].items()}
    converted = convert(source, state)
    for tensor in state.values():
        tensor.zero_()
    again = convert(source, STATES[source])
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in converted.state.items())


def test_settings_tell_the_sizes() -> None:
    found = convert("deformable-detr", ONE_STAGE, {"MODEL.DETR.NUM_HEADS": 4})
    assert found.settings == {
        "MODEL.RESNETS.DEPTH": 18, "MODEL.RESNETS.STEM_OUT_CHANNELS": 64, "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.NUM_GROUPS": 1, "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
        "MODEL.DETR.IN_FEATURES": ["res3", "res4", "res5"], "MODEL.DETR.NUM_EXTRA_LEVELS": 1,
        "MODEL.DETR.CHANNELS": 64, "MODEL.DETR.NUM_HEADS": 4, "MODEL.DETR.NUM_POINTS": 8,
        "MODEL.DETR.ENCODER_LAYERS": 2, "MODEL.DETR.DECODER_LAYERS": 3, "MODEL.DETR.FFN_CHANNELS": 48,
        "MODEL.DETR.NUM_QUERIES": 12, "MODEL.DETR.QUERIES": "Learned", "MODEL.DETR.REFINEMENT": "FromReference",
        "MODEL.DETR.HEADS": "Shared", "MODEL.DETR.CLASSIFIER.NAME": "Linear",
    }  # fmt: skip


def test_what_no_shape_tells_is_said() -> None:
    said = " ".join(convert("deformable-detr", TWO_STAGE).notes)
    assert "8 × 4 is assumed" in said and "MODEL.DETR.NUM_QUERIES is told by no shape" in said
    known = convert("deformable-detr", TWO_STAGE, {"MODEL.DETR.NUM_HEADS": 8, "MODEL.DETR.NUM_QUERIES": 12})
    assert "assumed" not in " ".join(known.notes) and "told by no shape" not in " ".join(known.notes)


def test_classes_are_cocos_where_the_heads_have_91_outputs_and_must_be_named_otherwise() -> None:
    heads = {name: tensor[:5] for name, tensor in TWO_STAGE.items() if "class_embed" in name}
    assert 'MODEL.VOCABULARY.TEST coco.' in " ".join(convert("deformable-detr", TWO_STAGE).notes)
    five = convert("deformable-detr", {**TWO_STAGE, **heads})
    assert "The 5 classes must be named" in " ".join(five.notes)
    assert len(five.state["classifier.projections.0.weight"]) == 5


def test_levels_beyond_the_backbone_are_told_by_their_convolution() -> None:
    sides = {0: 1, 1: 1, 2: 3, 3: 3}
    shapes = {f"proj.{level}.0.weight": (64, 8, side, side) for level, side in sides.items()}
    shapes |= {f"proj.{level}.{part}": (64,) for level in sides for part in ("0.bias", "1.weight", "1.bias")}
    ledger = Ledger(filled(shapes))
    deformable.neck(ledger, "proj")
    ours = ["neck.mappers.0", "neck.mappers.1", "neck.extra.0", "neck.extra.1"]
    assert [ledger.used[f"proj.{level}.0.weight"] for level in sides] == [[f"{name}.0.weight"] for name in ours]
    assert ledger.used["proj.3.1.bias"] == ["neck.extra.1.1.bias"]


def test_a_head_that_is_saved_once_serves_every_layer() -> None:
    """As Hugging Face saves class heads that are tied."""
    found = convert("deformable-detr", without(official.released("refined"), "class_embed.1.", "class_embed.2."))
    assert found.used["class_embed.0.weight"] == [f"classifier.projections.{layer}.weight" for layer in range(3)]
    assert found.used["bbox_embed.1.layers.2.bias"] == ["decoder.box_heads.1.layers.2.bias"]


def test_what_a_file_beside_the_weights_tells_is_taken() -> None:
    args = {"nheads": 4, "num_queries": 100, "lr": 2e-4, "dilation": False}
    assert deformable_detr.known_settings(args) == {"MODEL.DETR.NUM_HEADS": 4, "MODEL.DETR.NUM_QUERIES": 100}
    config = {"encoder_attention_heads": 8, "num_queries": 100, "two_stage_num_proposals": 300, "two_stage": True}
    assert hf_deformable_detr.known_settings(config) == {"MODEL.DETR.NUM_HEADS": 8, "MODEL.DETR.NUM_QUERIES": 300}
    assert hf_deformable_detr.known_settings({**config, "two_stage": False})["MODEL.DETR.NUM_QUERIES"] == 100


def test_a_dilated_backbone_which_detectron2_dilates_otherwise_is_refused() -> None:
    for told in (deformable_detr.known_settings, hf_deformable_detr.known_settings):
        with pytest.raises(ValueError, match="DC5"):
            told({"dilation": True})


def test_a_detector_of_one_level_is_converted_and_may_not_be_dilated() -> None:
    levels = without(TWO_STAGE, "input_proj.")
    levels |= {f"input_proj.0.0.{part}": TWO_STAGE[f"input_proj.2.0.{part}"] for part in ("weight", "bias")}
    levels |= {f"input_proj.0.1.{part}": TWO_STAGE[f"input_proj.2.1.{part}"] for part in ("weight", "bias")}
    samples = ("sampling_offsets", "attention_weights")
    one = {name: t[: len(t) // 4] if any(part in name for part in samples) else t for name, t in levels.items()}
    found = convert("deformable-detr", {**one, "transformer.level_embed": TWO_STAGE["transformer.level_embed"][:1]})
    assert found.settings["MODEL.DETR.IN_FEATURES"] == ["res5"] and found.settings["MODEL.DETR.NUM_EXTRA_LEVELS"] == 0
    assert any("DC5" in note for note in found.notes)


def test_the_report_is_plain_data() -> None:
    report = Conversion("x", {}, {"a": ["b"]}, {"c": "why", "d": "why"}).report
    assert report["used"] == {"a": ["b"]} and report["listed"] == {"why": ["c", "d"]}
