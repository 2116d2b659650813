"""Deformable DETR as Hugging Face's transformers names it, in memory and on disk, today and before version 5."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.engine.convert import deformable
from dk_detr.engine.convert.conversion import Conversion
from dk_detr.engine.convert.ledger import Ledger
from dk_detr.engine.convert.torchvision_resnet import resnet_left_out, resnet_names

SIGNS = (
    ("model.encoder.layers.{n}.self_attn_layer_norm.weight", "model.decoder.layers.{n}.encoder_attn.{msda}.weight"),
)
BACKBONES = ("model.backbone.conv_encoder.model.", "model.backbone.model.")  # on disk, in memory
ENCODER, DECODER = "model.encoder.layers.{n}.", "model.decoder.layers.{n}."
NAMES = {
    "model.level_embed": "encoder.level_embed",
    ENCODER + "self_attn.{msda}.{wb}": "encoder.layers.{n}.attention.{msda}.{wb}",
    ENCODER + "self_attn_layer_norm.{wb}": "encoder.layers.{n}.norm.{wb}",
    ENCODER + "fc{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "mlp.fc{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "final_layer_norm.{wb}": "encoder.layers.{n}.ffn.norm.{wb}",
    DECODER + "self_attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "self_attn.o_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "self_attn_layer_norm.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "encoder_attn.{msda}.{wb}": "decoder.layers.{n}.cross_attention.{msda}.{wb}",
    DECODER + "encoder_attn_layer_norm.{wb}": "decoder.layers.{n}.norm2.{wb}",
    DECODER + "fc{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "mlp.fc{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "final_layer_norm.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    "model.reference_points.{wb}": "queries.reference.{wb}",
    "model.enc_output.{wb}": "queries.token.0.{wb}",
    "model.enc_output_norm.{wb}": "queries.token.1.{wb}",
    "model.pos_trans.{wb}": "queries.to_query.0.{wb}",
    "model.pos_trans_norm.{wb}": "queries.to_query.1.{wb}",
}
QKV = [DECODER + f"self_attn.{letter}_proj.{{wb}}" for letter in "qkv"]


def own_resnet_names(prefix: str) -> dict[str, str]:
    """Names of the ResNet that transformers has itself (timm's are torchvision's) -> those of our backbone."""
    stem, parts = f"{prefix}embedder.embedder.", {"convolution.weight": "weight", "normalization.{norm}": "norm.{norm}"}
    names = {stem + theirs: f"backbone.stem.conv1.{ours}" for theirs, ours in parts.items()}
    for stage in range(4):
        block, our_block = f"{prefix}encoder.stages.{stage}.layers.{{n}}.", f"backbone.res{stage + 2}.{{n}}."
        for theirs, ours in parts.items():
            names[f"{block}shortcut.{theirs}"] = f"{our_block}shortcut.{ours}"
            for layer in range(3):
                names[f"{block}layer.{layer}.{theirs}"] = f"{our_block}conv{layer + 1}.{ours}"
    return names


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """One-stage, with refinement, or two-stage."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    for prefix in BACKBONES:
        ledger.rename({**resnet_names(prefix), **own_resnet_names(prefix)})
        ledger.leave(resnet_left_out(prefix))
    ledger.join(QKV, "decoder.layers.{n}.self_attention.in_proj_{wb}")
    deformable.neck(ledger, "model.input_proj")
    return deformable.finish("hf-deformable-detr", ledger, "model.", "model.query_position_embeddings.weight", known)


def known_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json tells and no shape does."""
    queries = "two_stage_num_proposals" if config.get("two_stage") else "num_queries"
    return deformable.known_settings(
        config, {"MODEL.DETR.NUM_HEADS": "encoder_attention_heads", "MODEL.DETR.NUM_QUERIES": queries}
    )
