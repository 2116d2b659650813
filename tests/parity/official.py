"""A Deformable DETR by the names and shapes of its authors' repository (fundamentalvision/Deformable-DETR).

The heads have 91 outputs, one for each number up to COCO's highest id.
"""

from functools import cache

from torch import Tensor

from tests.parity.published import (
    BACKBONE_WIDTHS,
    CHANNELS,
    DECODER_LAYERS,
    ENCODER_LAYERS,
    FFN,
    LEVELS,
    Shapes,
    deformable,
    dense,
    filled,
    linear,
    norm,
    resnet,
)

QUERIES, CLASSES = 12, 91
UNUSED = [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83]  # numbers that are no category's id
VARIANTS = ("one_stage", "refined", "two_stage")


def transformer(two_stage: bool) -> Shapes:
    shapes: Shapes = {"transformer.level_embed": (LEVELS, CHANNELS)}
    for number in range(ENCODER_LAYERS):
        layer = f"transformer.encoder.layers.{number}"
        shapes |= {**deformable(f"{layer}.self_attn"), **feed_forward(layer)}
        shapes |= {**norm(f"{layer}.norm1"), **norm(f"{layer}.norm2")}
    for number in range(DECODER_LAYERS):
        layer = f"transformer.decoder.layers.{number}"
        shapes |= {**deformable(f"{layer}.cross_attn"), **dense(f"{layer}.self_attn"), **feed_forward(layer)}
        shapes |= {**norm(f"{layer}.norm1"), **norm(f"{layer}.norm2"), **norm(f"{layer}.norm3")}
    if not two_stage:
        points = linear("transformer.reference_points", 2, CHANNELS)
        return {**shapes, **points, "query_embed.weight": (QUERIES, 2 * CHANNELS)}
    shapes |= {**linear("transformer.enc_output", CHANNELS, CHANNELS), **norm("transformer.enc_output_norm")}
    wide = 2 * CHANNELS
    return {**shapes, **linear("transformer.pos_trans", wide, wide), **norm("transformer.pos_trans_norm", wide)}


def feed_forward(layer: str) -> Shapes:
    return {**linear(f"{layer}.linear1", FFN, CHANNELS), **linear(f"{layer}.linear2", CHANNELS, FFN)}


def input_projections() -> Shapes:
    shapes: Shapes = {}
    for level, width in enumerate([*BACKBONE_WIDTHS, BACKBONE_WIDTHS[-1]]):
        side, conv = 3 if level == len(BACKBONE_WIDTHS) else 1, f"input_proj.{level}.0"
        shapes |= {f"{conv}.weight": (CHANNELS, width, side, side), f"{conv}.bias": (CHANNELS,)}
        shapes |= norm(f"input_proj.{level}.1")
    return shapes


def heads(number: int) -> Shapes:
    shapes = linear(f"class_embed.{number}", CLASSES, CHANNELS)
    for layer in range(3):
        shapes |= linear(f"bbox_embed.{number}.layers.{layer}", 4 if layer == 2 else CHANNELS, CHANNELS)
    return shapes


def num_heads(variant: str) -> int:
    return DECODER_LAYERS + (variant == "two_stage")


@cache
def released(variant: str) -> dict[str, Tensor]:
    """As PyTorch saves it: a module that is registered at several places is saved at each."""
    shapes = {**resnet("backbone.0.body.", frozen=True), **input_projections(), **transformer(variant == "two_stage")}
    if variant == "one_stage":
        state = filled({**shapes, **heads(0)})
        shared = {name: tensor for name, tensor in state.items() if name.startswith(("class_embed.", "bbox_embed."))}
        again = range(1, DECODER_LAYERS)
        return state | {name.replace(".0.", f".{n}.", 1): tensor for n in again for name, tensor in shared.items()}
    for number in range(num_heads(variant)):
        shapes |= heads(number)
    state = filled(shapes)
    return state | copies(state, "bbox_embed.") | (copies(state, "class_embed.") if variant == "two_stage" else {})


def copies(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {f"transformer.decoder.{name}": tensor for name, tensor in state.items() if name.startswith(head)}
