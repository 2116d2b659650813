"""Deformable DETR as Hugging Face's transformers names it, in memory and on disk, today and before version 5."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import deformable
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.hf import DECODER, ENCODER, FEED_FORWARD, qkv, use_backbone
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.told import known_settings as told_settings

SIGNS = (
    ("model.encoder.layers.{n}.self_attn_layer_norm.weight", "model.decoder.layers.{n}.encoder_attn.{msda}.weight"),
)
NAMES = {
    "model.level_embed": "encoder.level_embed",
    ENCODER + "self_attn.{msda}.{wb}": "encoder.layers.{n}.attention.{msda}.{wb}",
    **FEED_FORWARD,
    DECODER + "self_attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "self_attn.o_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "self_attn_layer_norm.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "encoder_attn.{msda}.{wb}": "decoder.layers.{n}.cross_attention.{msda}.{wb}",
    DECODER + "encoder_attn_layer_norm.{wb}": "decoder.layers.{n}.norm2.{wb}",
    "model.reference_points.{wb}": "queries.reference.{wb}",
    "model.enc_output.{wb}": "queries.token.0.{wb}",
    "model.enc_output_norm.{wb}": "queries.token.1.{wb}",
    "model.pos_trans.{wb}": "queries.to_query.0.{wb}",
    "model.pos_trans_norm.{wb}": "queries.to_query.1.{wb}",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """One-stage, with refinement, or two-stage."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    use_backbone(ledger)
    ledger.join(qkv(DECODER + "self_attn."), "decoder.layers.{n}.self_attention.in_proj_{wb}")
    deformable.neck(ledger, "model.input_proj")
    return deformable.finish("hf-deformable-detr", ledger, "model.", "model.query_position_embeddings.weight", known)


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json tells and no shape does."""
    queries = "two_stage_num_proposals" if config.get("two_stage") else "num_queries"
    return told_settings(config, {"MODEL.DETR.NUM_HEADS": "encoder_attention_heads", "MODEL.DETR.NUM_QUERIES": queries})
