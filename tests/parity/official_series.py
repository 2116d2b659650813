"""Detectors of the DETR series by the names and shapes of their authors' repositories, at small sizes.

The names are those of facebookresearch/detr, Atten4Vis/ConditionalDETR, IDEA-Research/DAB-DETR, IDEA-Research/DN-DETR
and IDEA-Research/DINO. Heads have 91 outputs, one for each number up to COCO's highest id; DETR's one more.
"""

from functools import cache
from itertools import pairwise

from torch import Tensor

from tests.parity.official import CLASSES, QUERIES, feed_forward, heads, input_projections, transformer
from tests.parity.published import (
    BACKBONE_WIDTHS,
    CHANNELS,
    DECODER_LAYERS,
    ENCODER_LAYERS,
    Shapes,
    dense,
    filled,
    linear,
    norm,
    resnet,
)

VARIANTS = {  # -> the source that it is of
    "detr": "detr",
    "conditional_detr": "conditional-detr",
    "dab_detr": "dab-detr",
    "dab_deformable_detr": "dab-detr",
    "dn_detr": "dn-detr",
    "dn_deformable_detr": "dn-detr",
    "dino": "dino",
}
PATTERNS = 2
SELF = ("sa_qcontent", "sa_qpos", "sa_kcontent", "sa_kpos", "sa_v")
CROSS = ("ca_qcontent", "ca_qpos_sine", "ca_kcontent", "ca_kpos", "ca_v")


def mlp(name: str, widths: list[int]) -> Shapes:
    shapes: Shapes = {}
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        shapes |= linear(f"{name}.layers.{number}", outputs, inputs)
    return shapes


def single_level(variant: str) -> Shapes:
    """Backbone, encoder, decoder and heads of those that attend to one level."""
    outputs = CLASSES + (variant == "detr")
    shapes = {**resnet("backbone.0.body.", frozen=True), **linear("class_embed", outputs, CHANNELS)}
    shapes |= {"input_proj.weight": (CHANNELS, BACKBONE_WIDTHS[-1], 1, 1), "input_proj.bias": (CHANNELS,)}
    shapes |= {**mlp("bbox_embed", [CHANNELS] * 3 + [4]), **norm("transformer.decoder.norm")}
    for number in range(ENCODER_LAYERS):
        layer = f"transformer.encoder.layers.{number}"
        shapes |= {**dense(f"{layer}.self_attn"), **feed_forward(layer)}
        shapes |= {**norm(f"{layer}.norm1"), **norm(f"{layer}.norm2")}
    for number in range(DECODER_LAYERS):
        layer = f"transformer.decoder.layers.{number}"
        shapes |= {**feed_forward(layer), **(dense_layer(layer) if variant == "detr" else conditional(layer, number))}
        for index in (1, 2, 3):
            shapes |= norm(f"{layer}.norm{index}")
    return shapes


def dense_layer(layer: str) -> Shapes:
    return {**dense(f"{layer}.self_attn"), **dense(f"{layer}.multihead_attn")}


def conditional(layer: str, number: int) -> Shapes:
    shapes: Shapes = {}
    for part in (*SELF, *CROSS, *(["ca_qpos"] if number == 0 else [])):
        shapes |= linear(f"{layer}.{part}_proj", CHANNELS, CHANNELS)
    for attention in ("self_attn", "cross_attn"):
        shapes |= linear(f"{layer}.{attention}.out_proj", CHANNELS, CHANNELS)
    return shapes


def dab(patterns: bool) -> Shapes:
    decoder, square = "transformer.decoder", [CHANNELS] * 3
    shapes = {**mlp("transformer.encoder.query_scale", square), **mlp(f"{decoder}.query_scale", square)}
    shapes |= mlp(f"{decoder}.ref_point_head", [2 * CHANNELS, CHANNELS, CHANNELS])
    shapes |= {**mlp(f"{decoder}.ref_anchor_head", [CHANNELS, CHANNELS, 2]), "refpoint_embed.weight": (QUERIES, 4)}
    for part, number in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        shapes |= {f"transformer.{part}.layers.{n}.activation.weight": (1,) for n in range(number)}
    return shapes | ({"transformer.patterns.weight": (PATTERNS, CHANNELS)} if patterns else {})


def several_levels() -> Shapes:
    """Backbone, neck, encoder and decoder of those with deformable attention."""
    names = {**resnet("backbone.0.body.", frozen=True), **input_projections(), **transformer(two_stage=False)}
    names |= mlp("transformer.decoder.ref_point_head", [2 * CHANNELS, CHANNELS, CHANNELS])
    return {name: shape for name, shape in names.items() if "reference_points" not in name and "query_" not in name}


def anchored(variant: str, patterns: bool) -> Shapes:
    width = CHANNELS - (variant == "dn_deformable_detr")
    shapes = {**several_levels(), **mlp("transformer.decoder.query_scale", [CHANNELS] * 3)}
    shapes |= {"tgt_embed.weight": (QUERIES, width), "refpoint_embed.weight": (QUERIES, 4)}
    for number in range(DECODER_LAYERS):
        shapes |= heads(number)
    return shapes | ({"patterns_embed.weight": (PATTERNS, CHANNELS)} if patterns else {})


def dino() -> Shapes:
    shapes = {**several_levels(), **norm("transformer.decoder.norm"), **heads(0)}
    shapes |= {**linear("transformer.enc_output", CHANNELS, CHANNELS), **norm("transformer.enc_output_norm")}
    shapes |= linear("transformer.enc_out_class_embed", CLASSES, CHANNELS)
    shapes |= mlp("transformer.enc_out_bbox_embed", [CHANNELS] * 3 + [4])
    return {
        **shapes,
        "transformer.tgt_embed.weight": (QUERIES, CHANNELS),
        "label_enc.weight": (CLASSES + 1, CHANNELS),
    }


def shapes_of(variant: str, patterns: bool) -> Shapes:
    labels: Shapes = {"label_enc.weight": (CLASSES + 1, CHANNELS - 1)} if variant.startswith("dn") else {}
    if variant == "dino":
        return dino()
    if "deformable" in variant:
        return {**anchored(variant, patterns), **labels}
    shapes = {**single_level(variant), **labels}
    if variant in ("dab_detr", "dn_detr"):
        return {**shapes, **dab(patterns)}
    if variant == "conditional_detr":
        shapes |= mlp("transformer.decoder.query_scale", [CHANNELS] * 3)
        shapes |= mlp("transformer.decoder.ref_point_head", [CHANNELS, CHANNELS, 2])
    return {**shapes, "query_embed.weight": (QUERIES, CHANNELS)}


@cache
def released(variant: str, patterns: bool = False) -> dict[str, Tensor]:
    """As PyTorch saves it: a module that is registered at several places is saved at each."""
    state = filled(shapes_of(variant, patterns))
    if variant in ("detr", "conditional_detr"):
        return state
    if variant == "dino":
        shared = {name: tensor for name, tensor in state.items() if name.startswith(("class_embed.", "bbox_embed."))}
        again = range(1, DECODER_LAYERS)
        state |= {name.replace(".0.", f".{n}.", 1): tensor for n in again for name, tensor in shared.items()}
    copied = ("bbox_embed.", "class_embed.") if variant == "dino" else ("bbox_embed.",)
    return state | {f"transformer.decoder.{name}": t for name, t in state.items() if name.startswith(copied)}
