"""DK-DETR as its authors released it (hikvision-research/opera), by mmdet's names; without its masks."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dk_detr.convert import deformable
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import count
from dk_detr.convert.torchvision_resnet import IMAGES, resnet_left_out, resnet_names
from dk_detr.convert.whole import finish_detector

SIGNS = (
    (
        "bbox_head.transformer.encoder.layers.{n}.attentions.0.{msda}.weight",
        "bbox_head.cls_branches.{n}.weight",
        "bbox_head.reg_branches.{n}.4.weight",
    ),
)
ENCODER, DECODER = "bbox_head.transformer.encoder.layers.{n}.", "bbox_head.transformer.decoder.layers.{n}."
NAMES = {
    "bbox_head.transformer.level_embeds": "encoder.level_embed",
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
    "bbox_head.transformer.enc_output.{wb}": "queries.token.0.{wb}",
    "bbox_head.transformer.enc_output_norm.{wb}": "queries.token.1.{wb}",
    "bbox_head.transformer.pos_trans.{wb}": "queries.to_query.0.{wb}",
    "bbox_head.transformer.pos_trans_norm.{wb}": "queries.to_query.1.{wb}",
    "neck.convs.{n}.conv.{wb}": "neck.mappers.{n}.0.{wb}",
    "neck.convs.{n}.gn.{wb}": "neck.mappers.{n}.1.{wb}",
    "neck.extra_convs.{n}.conv.{wb}": "neck.extra.{n}.0.{wb}",
    "neck.extra_convs.{n}.gn.{wb}": "neck.extra.{n}.1.{wb}",
    **resnet_names("backbone."),
}
MASKS = "part of the mask head (SOIT); this detector finds boxes"
LEFT_OUT = {
    **resnet_left_out("backbone."),
    "bbox_head.seg_branches.{rest}": MASKS,
    "bbox_head.dynamic_encoder.{rest}": MASKS,
    "bbox_head.mask_positional_encoding.{rest}": MASKS,
    "bbox_head.transformer.seg_encoder.{rest}": MASKS,
    "bbox_head.transformer.mask_trans.{wb}": MASKS,
    "bbox_head.transformer.mask_trans_norm.{wb}": MASKS,
    "text_encoder.{rest}": "the words: no part of a checkpoint here, but a vocabulary, see tools/build_vocabulary.py",
}
EVALUATION = (
    "The release's figures on LVIS v1 val, box AP 33.5 and APr 22.4, are of images resized to fit 1024x1024 and padded "
    "on the right and below to that square before the backbone (MODEL.DETR.PADDED_SIZE 1024, INPUT.MIN_SIZE_TEST and "
    "INPUT.MAX_SIZE_TEST 1024, as in the config), with 300 detections an image and the text embeddings of DetPro. With "
    "PADDED_SIZE 0 most detections are others."
)
NOTES = (
    IMAGES,
    EVALUATION,
    "To detect, MODEL.RESNETS.NORM FrozenBN uses the statistics of training; SyncBN goes on training as published.",
    "Text embeddings (MODEL.VOCABULARY.TEST, MODEL.CLIP) must come from the CLIP of the release, ViT-B/32.",
)


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector; its mask head is listed."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave(LEFT_OUT)
    _biases_of_the_neck(ledger)
    num_layers = count(ledger.state, DECODER + "{rest}")
    _heads(ledger, num_layers)
    choices = {
        "MODEL.DETR.QUERIES": "Proposals",
        "MODEL.DETR.REFINEMENT": "Iterative",
        "MODEL.DETR.HEADS": "PerLayer",
        "MODEL.DETR.CLASSIFIER.NAME": "CosineText",
        "MODEL.DETR.NUM_HEADS": 8,
        "MODEL.DETR.NUM_QUERIES": 300,
        **known,
    }
    return finish_detector("opera-dk-detr", ledger, choices, "configs/dk_detr_R50.yaml", NOTES)


def _biases_of_the_neck(ledger: Ledger) -> None:
    """mmcv's convolutions have no bias where a norm follows; ours have one, zero then."""
    for name, tensor in list(ledger.target.items()):
        bias = name.removesuffix("weight") + "bias"
        if name.startswith("neck.") and name.endswith(".0.weight") and bias not in ledger.target:
            ledger.target[bias] = torch.zeros(len(tensor))


def _heads(ledger: Ledger, num_layers: int) -> None:
    """A projection to text and a box head of each decoder layer, and the encoder's, which come last."""
    deformable.objectness(ledger, f"bbox_head.cls_branches.{num_layers}", deformable.RANKS)
    for layer in range(num_layers + 1):
        box_head = "queries.box_head" if layer == num_layers else f"decoder.box_heads.{layer}"
        for part in ("weight", "bias"):
            if layer < num_layers:
                ledger.use(f"bbox_head.cls_branches.{layer}.{part}", f"classifier.projections.{layer}.{part}")
            for index in range(3):
                ledger.use(f"bbox_head.reg_branches.{layer}.{2 * index}.{part}", f"{box_head}.layers.{index}.{part}")
