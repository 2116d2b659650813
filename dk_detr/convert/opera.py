"""What the releases of opera (hikvision-research) have in common: a two-stage Deformable DETR with the mask head of
SOIT, by mmdet's names."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dk_detr.convert import deformable
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import count, matching
from dk_detr.convert.torchvision_resnet import resnet_left_out, resnet_names

TRANSFORMER = "bbox_head.transformer."
SIGNS = (
    (
        TRANSFORMER + "encoder.layers.{n}.attentions.0.{msda}.weight",
        "bbox_head.cls_branches.{n}.weight",
        "bbox_head.reg_branches.{n}.4.weight",
    ),
)
ENCODER, DECODER = TRANSFORMER + "encoder.layers.{n}.", TRANSFORMER + "decoder.layers.{n}."
WORDS = "the words: no part of a checkpoint here, but a vocabulary, see tools/build_vocabulary.py"
MASKS = TRANSFORMER + "seg_encoder.layers.0."
NAMES = {
    TRANSFORMER + "level_embeds": "encoder.level_embed",
    ENCODER + "attentions.0.{msda}.{wb}": "encoder.layers.{n}.attention.{msda}.{wb}",
    ENCODER + "norms.0.{wb}": "encoder.layers.{n}.norm.{wb}",
    ENCODER + "ffns.0.layers.0.0.{wb}": "encoder.layers.{n}.ffn.linear1.{wb}",
    ENCODER + "ffns.0.layers.1.{wb}": "encoder.layers.{n}.ffn.linear2.{wb}",
    ENCODER + "norms.1.{wb}": "encoder.layers.{n}.ffn.norm.{wb}",
    DECODER + "attentions.0.attn.in_proj_{wb}": "decoder.layers.{n}.self_attention.in_proj_{wb}",
    DECODER + "attentions.0.attn.out_proj.{wb}": "decoder.layers.{n}.self_attention.out_proj.{wb}",
    DECODER + "norms.0.{wb}": "decoder.layers.{n}.norm1.{wb}",
    DECODER + "attentions.1.{msda}.{wb}": "decoder.layers.{n}.cross_attention.{msda}.{wb}",
    DECODER + "norms.1.{wb}": "decoder.layers.{n}.norm2.{wb}",
    DECODER + "ffns.0.layers.0.0.{wb}": "decoder.layers.{n}.ffn.linear1.{wb}",
    DECODER + "ffns.0.layers.1.{wb}": "decoder.layers.{n}.ffn.linear2.{wb}",
    DECODER + "norms.2.{wb}": "decoder.layers.{n}.ffn.norm.{wb}",
    TRANSFORMER + "enc_output.{wb}": "queries.token.0.{wb}",
    TRANSFORMER + "enc_output_norm.{wb}": "queries.token.1.{wb}",
    TRANSFORMER + "pos_trans.{wb}": "queries.to_query.0.{wb}",
    TRANSFORMER + "pos_trans_norm.{wb}": "queries.to_query.1.{wb}",
    MASKS + "attentions.0.{msda}.{wb}": "mask_head.layer.attention.{msda}.{wb}",
    MASKS + "norms.0.{wb}": "mask_head.layer.norm.{wb}",
    MASKS + "ffns.0.layers.0.0.{wb}": "mask_head.layer.ffn.linear1.{wb}",
    MASKS + "ffns.0.layers.1.{wb}": "mask_head.layer.ffn.linear2.{wb}",
    MASKS + "norms.1.{wb}": "mask_head.layer.ffn.norm.{wb}",
    TRANSFORMER + "mask_trans.{wb}": "mask_head.reduce.0.{wb}",
    TRANSFORMER + "mask_trans_norm.{wb}": "mask_head.reduce.1.{wb}",
    "neck.convs.{n}.conv.{wb}": "neck.mappers.{n}.0.{wb}",
    "neck.convs.{n}.gn.{wb}": "neck.mappers.{n}.1.{wb}",
    "neck.extra_convs.{n}.conv.{wb}": "neck.extra.{n}.0.{wb}",
    "neck.extra_convs.{n}.gn.{wb}": "neck.extra.{n}.1.{wb}",
    **resnet_names("backbone."),
}
LEFT_OUT = {
    "bbox_head.dynamic_encoder.{rest}": "of a layer whose weights queries bring: it has none of its own",
    "bbox_head.mask_positional_encoding.{rest}": "of a code that is computed",
    "text_encoder.{rest}": WORDS,
    "bbox_head.text_encoder.{rest}": WORDS,
}
ONE_BRANCH = "the same mask branch again: one serves all layers"


def rename(ledger: Ledger) -> None:
    """All but the class heads of the decoder's layers."""
    ledger.rename(NAMES)
    ledger.leave({**resnet_left_out("backbone."), **LEFT_OUT})
    _biases_of_the_neck(ledger)
    _mask_branch(ledger)
    number = num_layers(ledger)
    deformable.objectness(ledger, f"bbox_head.cls_branches.{number}", deformable.RANKS)
    for layer in range(number + 1):
        ours = "queries.box_head" if layer == number else f"decoder.box_heads.{layer}"
        _three_layers(ledger, f"bbox_head.reg_branches.{layer}", ours)


def num_layers(ledger: Ledger) -> int:
    """Of the decoder."""
    return count(ledger.state, DECODER + "{rest}")


def has_masks(names: Mapping[str, Tensor]) -> bool:
    """Whether the release can draw masks."""
    return any(True for _ in matching(names, "bbox_head.seg_branches.{rest}"))


def choices(ledger: Ledger) -> dict[str, object]:
    """The config keys that no shape tells, and that both releases have."""
    masks = {"MODEL.MASK_ON": True, "MODEL.DETR.MASKS": "Dynamic"} if has_masks(ledger.state) else {}
    return {
        "MODEL.DETR.QUERIES": "Proposals",
        "MODEL.DETR.REFINEMENT": "Iterative",
        "MODEL.DETR.HEADS": "PerLayer",
        "MODEL.DETR.NUM_HEADS": 8,
        "MODEL.DETR.NUM_QUERIES": 300,
        **masks,
    }


def _biases_of_the_neck(ledger: Ledger) -> None:
    """mmcv's convolutions have no bias where a norm follows; ours have one, zero then."""
    for name, tensor in list(ledger.target.items()):
        bias = name.removesuffix("weight") + "bias"
        if name.startswith("neck.") and name.endswith(".0.weight") and bias not in ledger.target:
            ledger.target[bias] = torch.zeros(len(tensor))


def _mask_branch(ledger: Ledger) -> None:
    """One for all decoder layers, saved with each."""
    if has_masks(ledger.state):
        ledger.fold("bbox_head.seg_branches.{n}.{m}.{wb}", "bbox_head.seg_branches.0.{m}.{wb}", ONE_BRANCH)
        _three_layers(ledger, "bbox_head.seg_branches.0", "mask_head.weights")


def _three_layers(ledger: Ledger, theirs: str, ours: str) -> None:
    for index in range(3):
        for part in ("weight", "bias"):
            ledger.use(f"{theirs}.{2 * index}.{part}", f"{ours}.layers.{index}.{part}")
