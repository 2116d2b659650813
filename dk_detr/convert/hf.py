"""What Hugging Face's DETRs have in common: names of backbones, in memory and on disk, of attention, of layers."""

from dk_detr.convert.ledger import Ledger
from dk_detr.convert.torchvision_resnet import resnet_left_out, resnet_names

BACKBONES = (  # on disk, in memory, and of timm
    "model.backbone.conv_encoder.model.",
    "model.backbone.model.",
    "model.backbone.conv_encoder.model._backbone.",
)
ENCODER, DECODER = "model.encoder.layers.{n}.", "model.decoder.layers.{n}."
FEED_FORWARD = {
    ENCODER + "self_attn_layer_norm.{wb}": "encoder.layers.{n}.norm.{wb}",
    ENCODER + "fc{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "mlp.fc{m}.{wb}": "encoder.layers.{n}.ffn.linear{m}.{wb}",
    ENCODER + "final_layer_norm.{wb}": "encoder.layers.{n}.ffn.norm.{wb}",
    DECODER + "fc{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "mlp.fc{m}.{wb}": "decoder.layers.{n}.ffn.linear{m}.{wb}",
    DECODER + "final_layer_norm.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
}
SINGLE_LEVEL = {  # with dense attention in the encoder, and a norm of what decoder layers say
    **FEED_FORWARD,
    "model.input_projection.{wb}": "neck.mappers.0.0.{wb}",
    ENCODER + "self_attn.out_proj.{wb}": "encoder.layers.{n}.attention.out_proj.{wb}",
    ENCODER + "self_attn.o_proj.{wb}": "encoder.layers.{n}.attention.out_proj.{wb}",
    DECODER + "self_attn_layer_norm.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "encoder_attn_layer_norm.{wb}": "decoder.layers.{n}.norm2.{wb}",
    "model.decoder.layernorm.{wb}": "decoder.norm.{wb}",
}


def use_single_level(ledger: Ledger) -> None:
    """Use backbone, neck and encoder of those that attend to one level."""
    use_backbone(ledger)
    ledger.rename(SINGLE_LEVEL)
    ledger.join(qkv(ENCODER + "self_attn."), "encoder.layers.{n}.attention.in_proj_{wb}")


def use_backbone(ledger: Ledger) -> None:
    """Use the ResNet, and list what is of no use in it."""
    for prefix in BACKBONES:
        ledger.rename({**resnet_names(prefix), **own_resnet_names(prefix)})
        ledger.leave(resnet_left_out(prefix))


def qkv(attention: str) -> list[str]:
    """Names of the projections that make one in PyTorch's attention."""
    return [f"{attention}{letter}_proj.{{wb}}" for letter in "qkv"]


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
