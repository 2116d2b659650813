"""DETR as its authors' repository names it (facebookresearch/detr)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert import single_level
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.single_level import DECODER
from dk_detr.convert.told import known_settings as told_settings

SIGNS = (
    (
        "transformer.encoder.layers.{n}.self_attn.in_proj_{wb}",
        "transformer.decoder.layers.{n}.multihead_attn.in_proj_{wb}",
        "bbox_embed.layers.{n}.{wb}",
    ),
)
NAMES = {
    **single_level.NAMES,
    DECODER + "self_attn.in_proj_{wb}": "decoder.layers.{n}.self_attention.in_proj_{wb}",
    DECODER + "multihead_attn.in_proj_{wb}": "decoder.layers.{n}.cross_attention.in_proj_{wb}",
    DECODER + "multihead_attn.out_proj.{wb}": "decoder.layers.{n}.cross_attention.out_proj.{wb}",
    "query_embed.weight": "queries.position.weight",
}
CONFIG = "configs/detr_R50.yaml"
PARTS = {
    "MODEL.DETR.QUERIES": "Learned",
    "MODEL.DETR.DECODER_ATTENTION": "Dense",
    "MODEL.DETR.POSITION": "Given",
    "MODEL.DETR.REFINEMENT": "Direct",
    "MODEL.DETR.CLASSIFIER.NAME": "LinearBackground",
    "MODEL.DETR.LOSS.CLASS": "CrossEntropy",
}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, without masks."""
    ledger = Ledger(state)
    ledger.rename(NAMES)
    ledger.leave(single_level.LEFT_OUT)
    return single_level.finish("detr", ledger, ("class_embed", "bbox_embed"), CONFIG, {**PARTS, **known})


def known_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the training arguments in the checkpoint tell and no shape does."""
    return told_settings(args, {"MODEL.DETR.NUM_HEADS": "nheads"})
