"""Deformable DETR as its authors' repository names it (fundamentalvision/Deformable-DETR)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import deformable
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.told import known_settings as told_settings
from dk_detr.convert.torchvision_resnet import resnet_left_out, resnet_names

SIGNS = (
    ("transformer.encoder.layers.{n}.self_attn.{msda}.weight", "transformer.decoder.layers.{n}.cross_attn.{msda}.bias"),
)
BACKBONE = "backbone.0.body."
ENCODER, DECODER = "transformer.encoder.layers.{n}.", "transformer.decoder.layers.{n}."
TRANSFORMER = {
    "transformer.level_embed": "encoder.level_embed",
    ENCODER + "self_attn.{msda}.{wb}": "encoder.layers.{n}.attention.{msda}.{wb}",
    ENCODER + "norm1.{wb}": "encoder.layers.{n}.norm.{wb}",
    ENCODER + "linear{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "norm2.{wb}": "encoder.layers.{n}.ffn.norm.{wb}",
    DECODER + "self_attn.in_proj_{wb}": "decoder.layers.{n}.self_attention.in_proj_{wb}",
    DECODER + "self_attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "cross_attn.{msda}.{wb}": "decoder.layers.{n}.cross_attention.{msda}.{wb}",
    # Its norms are numbered as they are built, not as they are used: the second one follows self-attention.
    DECODER + "norm2.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "norm1.{wb}": "decoder.layers.{n}.norm2.{wb}",
    DECODER + "linear{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "norm3.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    **resnet_names(BACKBONE),
}
"""All but queries and heads, which others have, too."""
NAMES = {
    **TRANSFORMER,
    "transformer.reference_points.{wb}": "queries.reference.{wb}",
    "transformer.enc_output.{wb}": "queries.token.0.{wb}",
    "transformer.enc_output_norm.{wb}": "queries.token.1.{wb}",
    "transformer.pos_trans.{wb}": "queries.to_query.0.{wb}",
    "transformer.pos_trans_norm.{wb}": "queries.to_query.1.{wb}",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """One-stage, with refinement, or two-stage."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave(resnet_left_out(BACKBONE))
    deformable.neck(ledger, "input_proj")
    return deformable.finish("deformable-detr", ledger, "transformer.", "query_embed.weight", known)


def known_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the training arguments in the checkpoint tell and no shape does."""
    return told_settings(args, {"MODEL.DETR.NUM_HEADS": "nheads", "MODEL.DETR.NUM_QUERIES": "num_queries"})
