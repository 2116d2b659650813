"""DAB-DETR as Hugging Face's transformers names it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import dab_detr, deformable, single_level
from dk_detr.convert.anchors import DENSE_PARTS, activation, use_queries
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.hf import DECODER, ENCODER, use_single_level
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.told import known_settings as told_settings
from dk_detr.convert.told import temperature

SIGNS = (("model.decoder.layers.{n}.cross_attn.cross_attn_query_content_proj.{wb}", "bbox_predictor.layers.{n}.{wb}"),)
PROJECTIONS = {  # of both attentions in the source -> here
    "query_content": "q_content",
    "query_pos": "q_position",
    "key_content": "k_content",
    "key_pos": "k_position",
    "value": "value",
}


def attention_names() -> dict[str, str]:
    """Of both attentions: projections, output, norm."""
    names = {}
    for attention, ours, norm in (("self_attn", "self_attention", "norm1"), ("cross_attn", "cross_attention", "norm2")):
        layer, our_layer = f"{DECODER}{attention}.{attention}", f"decoder.layers.{{n}}.{ours}."
        for theirs, part in PROJECTIONS.items():
            names[f"{layer}_{theirs}_proj.{{wb}}"] = f"{our_layer}{part}.{{wb}}"
        names[f"{layer}.output_proj.{{wb}}"] = f"{our_layer}out_proj.{{wb}}"
        names[f"{layer}_layer_norm.{{wb}}"] = f"decoder.layers.{{n}}.{norm}.{{wb}}"
    # What is sought in the memory is the code of the anchor; in the first layer also the query's own position.
    cross = f"{DECODER}cross_attn.cross_attn_query_pos"
    names[f"{cross}_sine_proj.{{wb}}"] = "decoder.layers.{n}.cross_attention.q_position.{wb}"
    names[f"{cross}_proj.{{wb}}"] = "decoder.layers.{n}.cross_attention.q_own.{wb}"
    return names


NAMES = {
    **attention_names(),
    ENCODER + "activation_fn.weight": "encoder.layers.{n}.ffn.prelu.weight",
    DECODER + "mlp.activation_fn.weight": "decoder.layers.{n}.ffn.prelu.weight",
    DECODER + "mlp.final_layer_norm.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    "model.encoder.query_scale.layers.{m}.{wb}": "encoder.scale.layers.{m}.{wb}",
    "model.decoder.query_scale.layers.{m}.{wb}": "decoder.positions.scale.layers.{m}.{wb}",
    "model.decoder.ref_point_head.layers.{m}.{wb}": "decoder.positions.of_box.layers.{m}.{wb}",
    "model.decoder.ref_anchor_head.layers.{m}.{wb}": "decoder.positions.size.layers.{m}.{wb}",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, with patterns or without."""
    ledger = Ledger(state)
    use_single_level(ledger)
    ledger.rename(NAMES)
    ledger.fold("model.decoder.bbox_embed.{rest}", "bbox_predictor.{rest}", deformable.COPY)
    content = use_queries(ledger, "model.query_refpoint_embeddings.weight", "model.patterns.weight")
    queries = {"MODEL.DETR.CONTENT": content, "MODEL.DETR.ACTIVATION": activation(ledger)}
    heads, parts = ("class_embed", "bbox_predictor"), {**DENSE_PARTS, **queries, **known}
    return single_level.finish("hf-dab-detr", ledger, heads, dab_detr.SOURCE.dense, parts)


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json tells and no shape does."""
    settings = told_settings(config, {"MODEL.DETR.NUM_HEADS": "encoder_attention_heads"})
    return settings | temperature(config, "temperature_height", "temperature_width")
