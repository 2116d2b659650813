"""What DETRs that attend to one level have in common: their parts, their heads, and their official names."""

from collections.abc import Mapping
from typing import Any

from dk_detr.convert.conversion import Conversion
from dk_detr.convert.heads import box_head, class_head, image_and_class_notes
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.torchvision_resnet import resnet_left_out, resnet_names
from dk_detr.convert.whole import finish_detector

BACKBONE = "backbone.0.body."
ENCODER, DECODER = "transformer.encoder.layers.{n}.", "transformer.decoder.layers.{n}."
NAMES = {
    "input_proj.{wb}": "neck.mappers.0.0.{wb}",
    ENCODER + "self_attn.in_proj_{wb}": "encoder.layers.{n}.attention.in_proj_{wb}",
    ENCODER + "self_attn.out_proj.{wb}": "encoder.layers.{n}.attention.out_proj.{wb}",
    ENCODER + "norm1.{wb}": "encoder.layers.{n}.norm.{wb}",
    ENCODER + "linear{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "norm2.{wb}": "encoder.layers.{n}.ffn.norm.{wb}",
    DECODER + "self_attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "norm1.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "norm2.{wb}": "decoder.layers.{n}.norm2.{wb}",
    DECODER + "linear{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "norm3.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    "transformer.decoder.norm.{wb}": "decoder.norm.{wb}",
    **resnet_names(BACKBONE),
}
LEFT_OUT = resnet_left_out(BACKBONE)
PARTS = {
    "MODEL.DETR.NECK_NORM": "none",
    "MODEL.DETR.ENCODER_ATTENTION": "Dense",
    "MODEL.DETR.DECODER_NORM": "LN",
    "MODEL.DETR.CONTENT": "Zero",
    "MODEL.DETR.CLASSIFIER.NAME": "Linear",
    "MODEL.DETR.HEADS": "Shared",
}
UNTOLD = "No shape tells whether the last stage of the backbone is dilated (DC5): that is not supported."


def finish(source: str, ledger: Ledger, heads: tuple[str, str], config: str, parts: Mapping[str, Any]) -> Conversion:
    """What the tables of names leave: heads that all layers share.

    Args:
        heads: what the names of the class and of the box head begin with. config: the file of configs/ that fits.
        parts: config keys that name what is not as in `PARTS`, and those that a file beside the weights tells.
    """
    choices = {**PARTS, **parts}
    background = choices["MODEL.DETR.CLASSIFIER.NAME"] == "LinearBackground"
    class_head(ledger, heads[0], "classifier.projections.0", background)
    box_head(ledger, heads[1], "decoder.box_heads.0")
    return finish_detector(source, ledger, choices, config, [*image_and_class_notes(ledger, background), UNTOLD])
