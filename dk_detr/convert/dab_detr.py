"""DAB-DETR and DAB-Deformable-DETR as their authors' repository names them (IDEA-Research/DAB-DETR)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert.anchors import Contents, Source, finish, is_deformable, use_queries
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.told import known_settings as told_settings
from dk_detr.convert.told import temperature

SIGNS = (
    ("transformer.decoder.layers.{n}.ca_qcontent_proj.{wb}", "transformer.encoder.query_scale.layers.{m}.{wb}"),
    ("transformer.decoder.layers.{n}.cross_attn.{msda}.{wb}", "transformer.decoder.query_scale.layers.{m}.{wb}"),
)
SOURCE = Source("dab-detr", "configs/dab_detr_R50.yaml", "configs/dab_deformable_detr_R50.yaml")


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, with patterns or without; not the two-stage one."""
    ledger = Ledger(state)
    if is_deformable(ledger):
        contents = Contents("tgt_embed.weight", ledger.get("tgt_embed.weight"))
        content = use_queries(ledger, "refpoint_embed.weight", "patterns_embed.weight", contents)
    else:
        content = use_queries(ledger, "refpoint_embed.weight", "transformer.patterns.weight")
    return finish(SOURCE, ledger, {"MODEL.DETR.CONTENT": content, **known})


def known_settings(args: Mapping[str, Any]) -> dict[str, Any]:
    """What the training arguments in the checkpoint tell and no shape does."""
    settings = told_settings(args, {"MODEL.DETR.NUM_HEADS": "nheads"})
    return settings | temperature(args, "pe_temperatureH", "pe_temperatureW")
