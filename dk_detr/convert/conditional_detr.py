"""Conditional DETR as its authors' repository names it (Atten4Vis/ConditionalDETR)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import detr, single_level
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.single_level import DECODER

SIGNS = (("transformer.decoder.layers.{n}.ca_qcontent_proj.{wb}", "bbox_embed.layers.{n}.{wb}"),)
PROJECTIONS = {  # of an attention in the source -> here
    "sa_qcontent": "self_attention.q_content",
    "sa_qpos": "self_attention.q_position",
    "sa_kcontent": "self_attention.k_content",
    "sa_kpos": "self_attention.k_position",
    "sa_v": "self_attention.value",
    "ca_qcontent": "cross_attention.q_content",
    "ca_qpos": "cross_attention.q_own",  # in the first layer alone
    "ca_qpos_sine": "cross_attention.q_position",
    "ca_kcontent": "cross_attention.k_content",
    "ca_kpos": "cross_attention.k_position",
    "ca_v": "cross_attention.value",
}
ATTENTION = {
    f"{DECODER}{theirs}_proj.{{wb}}": f"decoder.layers.{{n}}.{ours}.{{wb}}" for theirs, ours in PROJECTIONS.items()
} | {DECODER + "cross_attn.out_proj.{wb}": "decoder.layers.{n}.cross_attention.out_proj.{wb}"}
NAMES = {
    **single_level.NAMES,
    **ATTENTION,
    "transformer.decoder.query_scale.layers.{m}.{wb}": "decoder.positions.scale.layers.{m}.{wb}",
    "transformer.decoder.ref_point_head.layers.{m}.{wb}": "queries.reference.layers.{m}.{wb}",
    "query_embed.weight": "queries.position.weight",
}
known_settings = detr.known_settings  # they tell the same by the same names
CONFIG = "configs/conditional_detr_R50.yaml"
PARTS = {
    "MODEL.DETR.QUERIES": "Learned",
    "MODEL.DETR.DECODER_ATTENTION": "Conditional",
    "MODEL.DETR.POSITION": "ConditionalSine",
    "MODEL.DETR.REFINEMENT": "FromReference",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, without masks."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave(single_level.LEFT_OUT)
    heads = ("class_embed", "bbox_embed")
    return single_level.finish("conditional-detr", ledger, heads, CONFIG, {**PARTS, **known})
