"""Conditional DETR as Hugging Face's transformers names it: on disk, and before version 5, as its authors name the
projections of attention; in memory otherwise."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import conditional_detr, hf_detr, single_level
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.hf import DECODER, use_single_level
from dk_detr.convert.ledger import Ledger

SIGNS = (
    ("model.decoder.layers.{n}.encoder_attn.q_content_proj.{wb}", "bbox_predictor.layers.{n}.{wb}"),
    ("model.decoder.layers.{n}.ca_qcontent_proj.{wb}", "bbox_predictor.layers.{n}.{wb}"),
)
known_settings = hf_detr.known_settings  # they tell the same by the same names
IN_MEMORY = {
    "qcontent": "q_content",
    "qpos": "q_pos",
    "qpos_sine": "q_pos_sine",
    "kcontent": "k_content",
    "kpos": "k_pos",
    "v": "v",
}


def attention_names() -> dict[str, str]:
    """Projections of both attentions, by both namings."""
    names, attentions = {}, {"sa": "self_attn", "ca": "encoder_attn"}
    for theirs, ours in conditional_detr.PROJECTIONS.items():
        target = f"decoder.layers.{{n}}.{ours}.{{wb}}"
        attention, part = theirs.split("_", 1)
        names[f"{DECODER}{theirs}_proj.{{wb}}"] = target
        names[f"{DECODER}{attentions[attention]}.{IN_MEMORY[part]}_proj.{{wb}}"] = target
    for attention, ours in (("self_attn", "self_attention"), ("encoder_attn", "cross_attention")):
        for output in ("out_proj", "o_proj"):
            names[f"{DECODER}{attention}.{output}.{{wb}}"] = f"decoder.layers.{{n}}.{ours}.out_proj.{{wb}}"
    return names


NAMES = {
    **attention_names(),
    "model.decoder.query_scale.layers.{m}.{wb}": "decoder.positions.scale.layers.{m}.{wb}",
    "model.decoder.ref_point_head.layers.{m}.{wb}": "queries.reference.layers.{m}.{wb}",
    "model.query_position_embeddings.weight": "queries.position.weight",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, without masks."""
    ledger = Ledger(state)
    use_single_level(ledger)
    ledger.rename(NAMES)
    parts = {**conditional_detr.PARTS, **known}
    return single_level.finish("hf-conditional-detr", ledger, hf_detr.HEADS, conditional_detr.CONFIG, parts)
