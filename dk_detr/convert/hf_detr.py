"""DETR as Hugging Face's transformers names it, in memory and on disk."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import detr, single_level
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.hf import DECODER, qkv, use_single_level
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.told import known_settings as told_settings

SIGNS = (("model.decoder.layers.{n}.encoder_attn.q_proj.{wb}", "bbox_predictor.layers.{n}.{wb}"),)
NAMES = {
    DECODER + "self_attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "self_attn.o_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "encoder_attn.out_proj.{wb}": "decoder.layers.{n}.cross_attention.out_proj.{wb}",
    DECODER + "encoder_attn.o_proj.{wb}": "decoder.layers.{n}.cross_attention.out_proj.{wb}",
    "model.query_position_embeddings.weight": "queries.position.weight",
}
HEADS = ("class_labels_classifier", "bbox_predictor")


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, without masks."""
    ledger = Ledger(state)
    use_single_level(ledger)
    ledger.rename(NAMES)
    ledger.join(qkv(DECODER + "self_attn."), "decoder.layers.{n}.self_attention.in_proj_{wb}")
    ledger.join(qkv(DECODER + "encoder_attn."), "decoder.layers.{n}.cross_attention.in_proj_{wb}")
    return single_level.finish("hf-detr", ledger, HEADS, detr.CONFIG, {**detr.PARTS, **known})


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json tells and no shape does."""
    return told_settings(config, {"MODEL.DETR.NUM_HEADS": "encoder_attention_heads"})
