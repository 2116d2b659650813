"""DK-DETR by the names and shapes of its release (opera's DKDETRHead and SOITTransformer, mmdet and mmcv)."""

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

WIDTH, CLASSES = 16, 7  # of the text, 512 in the release; of LVIS, 1203
HEAD = "bbox_head.transformer."


def neck() -> Shapes:
    """mmdet's ChannelMapper: convolutions before a norm have no bias."""
    shapes: Shapes = {}
    for level, width in enumerate(BACKBONE_WIDTHS):
        shapes |= {f"neck.convs.{level}.conv.weight": (CHANNELS, width, 1, 1), **norm(f"neck.convs.{level}.gn")}
    extra = {"neck.extra_convs.0.conv.weight": (CHANNELS, BACKBONE_WIDTHS[-1], 3, 3)}
    return {**shapes, **extra, **norm("neck.extra_convs.0.gn")}


def feed_forward(layer: str) -> Shapes:
    return {**linear(f"{layer}.ffns.0.layers.0.0", FFN, CHANNELS), **linear(f"{layer}.ffns.0.layers.1", CHANNELS, FFN)}


def transformer() -> Shapes:
    shapes: Shapes = {f"{HEAD}level_embeds": (LEVELS, CHANNELS)}
    for number in range(ENCODER_LAYERS):
        layer = f"{HEAD}encoder.layers.{number}"
        shapes |= {**deformable(f"{layer}.attentions.0"), **feed_forward(layer)}
        shapes |= {**norm(f"{layer}.norms.0"), **norm(f"{layer}.norms.1")}
    for number in range(DECODER_LAYERS):
        layer = f"{HEAD}decoder.layers.{number}"
        shapes |= {**dense(f"{layer}.attentions.0.attn"), **deformable(f"{layer}.attentions.1"), **feed_forward(layer)}
        shapes |= {**norm(f"{layer}.norms.0"), **norm(f"{layer}.norms.1"), **norm(f"{layer}.norms.2")}
    shapes |= {**linear(f"{HEAD}enc_output", CHANNELS, CHANNELS), **norm(f"{HEAD}enc_output_norm")}
    return {**shapes, **linear(f"{HEAD}pos_trans", 2 * CHANNELS, 2 * CHANNELS), **norm(f"{HEAD}pos_trans_norm", 128)}


def heads(projected: int = WIDTH) -> Shapes:
    """Each decoder layer's, and the encoder's."""
    shapes: Shapes = {}
    for number in range(DECODER_LAYERS + 1):
        outputs = CLASSES if number == DECODER_LAYERS else projected
        shapes |= linear(f"bbox_head.cls_branches.{number}", outputs, CHANNELS)
        for index, width in ((0, CHANNELS), (2, CHANNELS), (4, 4)):
            shapes |= linear(f"bbox_head.reg_branches.{number}.{index}", width, CHANNELS)
    return shapes


def masks() -> Shapes:
    """What there is for masks: a layer on the finest level, and a branch of each decoder layer."""
    layer = f"{HEAD}seg_encoder.layers.0"
    shapes: Shapes = {}
    for part, width in (("sampling_offsets", 8), ("attention_weights", 4), ("value_proj", 64), ("output_proj", 64)):
        shapes |= linear(f"{layer}.attentions.0.{part}", width, CHANNELS)
    shapes |= {**feed_forward(layer), **norm(f"{layer}.norms.0"), **norm(f"{layer}.norms.1")}
    shapes |= linear(f"{HEAD}mask_trans", 8, CHANNELS)
    shapes |= norm(f"{HEAD}mask_trans_norm", 8)
    for number in range(DECODER_LAYERS):
        for index, width in ((0, CHANNELS), (2, CHANNELS), (4, 441)):
            shapes |= linear(f"bbox_head.seg_branches.{number}.{index}", width, CHANNELS)
    return shapes


@cache
def released() -> dict[str, Tensor]:
    """The release at small sizes."""
    boxes = {**resnet("backbone.", frozen=False), **neck(), **transformer(), **heads()}
    return one_branch(filled({**boxes, **masks(), "text_encoder.text_feat": (CLASSES, WIDTH)}))


@cache
def soit() -> dict[str, Tensor]:
    """The same of SOIT: classes in all heads."""
    boxes = {**resnet("backbone.", frozen=False), **neck(), **transformer(), **heads(CLASSES)}
    return one_branch(filled({**boxes, **masks()}))


def one_branch(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The branches of masks are one, which all decoder layers share. Its offsets are large enough to matter."""
    for index in (0, 2, 4):
        for part in ("weight", "bias"):
            first = state[f"bbox_head.seg_branches.0.{index}.{part}"]
            for number in range(DECODER_LAYERS):
                state[f"bbox_head.seg_branches.{number}.{index}.{part}"] = first
    return state
