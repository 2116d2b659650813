"""DINO as its authors' repository names it (IDEA-Research/DINO): two-stage, with contents that are learned."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import deformable, deformable_detr, heads
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.denoising import use_labels
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.single_level import LEFT_OUT
from dk_detr.convert.told import known_settings as told_settings
from dk_detr.convert.told import temperature

SIGNS = (
    (
        "transformer.decoder.layers.{n}.cross_attn.{msda}.{wb}",
        "transformer.decoder.ref_point_head.layers.{m}.{wb}",
        "transformer.decoder.norm.{wb}",
    ),
)
NAMES = {
    **deformable_detr.TRANSFORMER,
    "transformer.decoder.norm.{wb}": "decoder.norm.{wb}",
    "transformer.decoder.ref_point_head.layers.{m}.{wb}": "decoder.positions.of_box.layers.{m}.{wb}",
    "transformer.enc_output.{wb}": "queries.token.0.{wb}",
    "transformer.enc_output_norm.{wb}": "queries.token.1.{wb}",
    "transformer.tgt_embed.weight": "queries.content.weight",
}
PARTS = {
    "MODEL.DETR.QUERIES": "Mixed",
    "MODEL.DETR.FIRST_STAGE": "ClassAware",
    "MODEL.DETR.POSITION": "SineAnchors",
    "MODEL.DETR.REFINEMENT": "LookForwardTwice",
    "MODEL.DETR.DECODER_NORM": "LN",
    "MODEL.DETR.CLASSIFIER.NAME": "Linear",
}
CONFIG = "configs/dino_R50_4scale.yaml"


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, and its denoising."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave(LEFT_OUT)
    deformable.neck(ledger, "input_proj")
    heads.class_head(ledger, "transformer.enc_out_class_embed", "queries.objectness")
    heads.box_head(ledger, "transformer.enc_out_bbox_embed", "queries.box_head")
    number = len(ledger.get("transformer.enc_out_class_embed.bias"))
    extensions = use_labels(ledger, "label_enc.weight", ledger.get("label_enc.weight"), number, "ContrastiveDenoising")
    layers = deformable.heads_of_layers_or_one(ledger, "transformer.")
    choices = {**PARTS, "MODEL.DETR.HEADS": layers, "MODEL.TRAINING_EXTENSIONS": extensions, **known}
    return deformable.finish_with("dino", ledger, choices, CONFIG)


def known_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the training arguments in the checkpoint tell and no shape does."""
    settings = told_settings(args, {"MODEL.DETR.NUM_HEADS": "nheads"})
    return settings | temperature(args, "pe_temperatureH", "pe_temperatureW")
