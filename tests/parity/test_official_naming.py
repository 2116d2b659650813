"""Deformable DETR by the names of its authors' repository, converted: the same boxes and logits as its formulas give.

The names and their roles are those of fundamentalvision/Deformable-DETR, models/deformable_detr.py and
models/deformable_transformer.py; the heads have 91 outputs, one for each number up to COCO's highest id.
"""

from functools import cache

import pytest
import torch
from torch import Tensor

from dk_detr.convert import Conversion, convert
from tests.model_fixtures import random
from tests.parity.detector import answer_of, detector_of
from tests.parity.formulas import Detector, Layer, Names, Weights
from tests.parity.official import CLASSES, QUERIES, UNUSED, VARIANTS, released
from tests.parity.published import CHANNELS, DECODER_LAYERS, ENCODER_LAYERS, LEVELS, accounted

IMAGE = random(3, 64, 96, seed=1)
CONFIGS = {"one_stage": "", "refined": "_refine", "two_stage": "_two_stage"}
each_variant = pytest.mark.parametrize("variant", VARIANTS)


@cache
def conversion(variant: str) -> Conversion:
    return convert("deformable-detr", released(variant), {"MODEL.DETR.NUM_QUERIES": QUERIES})


ENCODER, DECODER = "transformer.encoder.layers.{}.", "transformer.decoder.layers.{}."
NAMES = Names(
    backbone="backbone.0.body.",
    neck=[(f"input_proj.{level}.0", f"input_proj.{level}.1") for level in range(LEVELS)],
    level_embedding="transformer.level_embed",
    encoder=Layer(
        deformable_attention=f"{ENCODER}self_attn",
        after_deformable=f"{ENCODER}norm1",
        feed_forward=(f"{ENCODER}linear1", f"{ENCODER}linear2"),
        after_feed_forward=f"{ENCODER}norm2",
    ),
    decoder=Layer(
        dense_attention=f"{DECODER}self_attn",
        after_dense=f"{DECODER}norm2",
        deformable_attention=f"{DECODER}cross_attn",
        after_deformable=f"{DECODER}norm1",
        feed_forward=(f"{DECODER}linear1", f"{DECODER}linear2"),
        after_feed_forward=f"{DECODER}norm3",
    ),
    box_head=("bbox_embed.{}.layers.0", "bbox_embed.{}.layers.1", "bbox_embed.{}.layers.2"),
    token=("transformer.enc_output", "transformer.enc_output_norm"),
    ranking=f"class_embed.{DECODER_LAYERS}",
    query=("transformer.pos_trans", "transformer.pos_trans_norm"),
)


def answer(weights: Weights, variant: str, image: Tensor) -> tuple[Tensor, Tensor]:
    """(D, Q, 91) logits and (D, Q, 4) boxes."""
    detector = Detector(weights, NAMES, CHANNELS, ENCODER_LAYERS, DECODER_LAYERS)
    tokens = detector.encode(image)
    queries = detector.propose(tokens, QUERIES) if variant == "two_stage" else learned(weights)
    content, position, reference = queries
    logits, boxes = [], []
    for number in range(DECODER_LAYERS):
        head = 0 if variant == "one_stage" else number
        content = detector.decode(number, content, position, reference, tokens)
        boxes.append(detector.boxes(head, content, reference))
        logits.append(weights.linear(f"class_embed.{head}", content))
        reference = reference if variant == "one_stage" else boxes[-1]
    return torch.stack(logits), torch.stack(boxes)


def learned(weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    """Content, position and points of queries that are the same for all images."""
    position, content = weights["query_embed.weight"].split(CHANNELS, dim=1)
    return content, position, weights.linear("transformer.reference_points", position).sigmoid()


@each_variant
def test_boxes_and_logits_of_all_layers_are_those_of_the_formulas(variant: str) -> None:
    weights = Weights(released(variant))
    with torch.no_grad():
        logits, boxes = answer(weights, variant, IMAGE)
    of_categories = [number for number in range(CLASSES) if number not in UNUSED]
    mine = answer_of(detector_of(conversion(variant)), IMAGE)
    assert mine[0].shape == (DECODER_LAYERS, QUERIES, 80) and mine[1].shape == (DECODER_LAYERS, QUERIES, 4)
    torch.testing.assert_close(mine[0], logits[..., of_categories], atol=1e-4, rtol=0)
    torch.testing.assert_close(mine[1], boxes, atol=1e-4, rtol=0)
    assert set(conversion(variant).used) == weights.asked


@each_variant
def test_every_tensor_of_the_release_is_used_or_listed(variant: str) -> None:
    found = conversion(variant)
    assert accounted(found.used, found.listed) == set(released(variant))


@each_variant
def test_the_config_of_the_same_parts_fits(variant: str) -> None:
    assert conversion(variant).config == f"configs/deformable_detr{CONFIGS[variant]}_R50.yaml"


@each_variant
def test_outputs_for_ids_that_no_category_has_are_listed_by_number(variant: str) -> None:
    assert f"class_embed.0.bias[{', '.join(map(str, UNUSED))}]" in conversion(variant).listed


def test_a_head_that_all_layers_share_is_used_once() -> None:
    found = conversion("one_stage")
    assert [name for name in found.state if name.startswith("classifier.")] == [
        "classifier.projections.0.weight", "classifier.projections.0.bias",
    ]  # fmt: skip
    assert {f"{name}.{n}.{rest}" for n in range(1, DECODER_LAYERS) for name, rest in
            (("class_embed", "weight"), ("bbox_embed", "layers.2.bias"))} <= set(found.listed)  # fmt: skip


def test_a_head_that_should_be_shared_and_is_not_is_refused() -> None:
    state = released("one_stage") | {"bbox_embed.1.layers.0.bias": torch.ones(CHANNELS)}
    with pytest.raises(ValueError, match=r"bbox_embed.1.layers.0.bias should be the same tensor as bbox_embed.0"):
        convert("deformable-detr", state)


def test_a_copy_that_is_none_is_refused() -> None:
    state = released("refined") | {"transformer.decoder.bbox_embed.1.layers.0.bias": torch.ones(CHANNELS)}
    with pytest.raises(ValueError, match="should be the same tensor as bbox_embed.1.layers.0.bias"):
        convert("deformable-detr", state)


def test_only_the_output_that_ranks_is_taken_of_the_encoders_class_head() -> None:
    head, found = released("two_stage")[f"class_embed.{DECODER_LAYERS}.weight"], conversion("two_stage")
    assert torch.equal(found.state["queries.objectness.weight"], head[:1])
    assert f"class_embed.{DECODER_LAYERS}.weight[1:]" in found.listed
