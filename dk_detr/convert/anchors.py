"""Anchors: what DAB-DETR and DN-DETR have in common by the names of their repositories, with dense or deformable
attention. Q queries, C channels."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dk_detr.convert import deformable, deformable_detr, single_level
from dk_detr.convert.conditional_detr import ATTENTION
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import matching
from dk_detr.convert.single_level import DECODER, ENCODER

POSITIONS = {
    "transformer.decoder.query_scale.layers.{m}.{wb}": "decoder.positions.scale.layers.{m}.{wb}",
    "transformer.decoder.ref_point_head.layers.{m}.{wb}": "decoder.positions.of_box.layers.{m}.{wb}",
}
DENSE_NAMES = {
    **single_level.NAMES,
    **ATTENTION,
    **POSITIONS,
    "transformer.encoder.query_scale.layers.{m}.{wb}": "encoder.scale.layers.{m}.{wb}",
    "transformer.decoder.ref_anchor_head.layers.{m}.{wb}": "decoder.positions.size.layers.{m}.{wb}",
    ENCODER + "activation.weight": "encoder.layers.{n}.ffn.prelu.weight",
    DECODER + "activation.weight": "decoder.layers.{n}.ffn.prelu.weight",
}
DEFORMABLE_NAMES = {**deformable_detr.TRANSFORMER, **POSITIONS}
DENSE_PARTS = {
    "MODEL.DETR.QUERIES": "Anchors",
    "MODEL.DETR.DECODER_ATTENTION": "Conditional",
    "MODEL.DETR.POSITION": "ModulatedSineAnchors",
    "MODEL.DETR.REFINEMENT": "LookForwardTwice",
    "MODEL.DETR.ENCODER_POSITION": "ScaledSine",
}
DEFORMABLE_PARTS = {
    "MODEL.DETR.QUERIES": "Anchors",
    "MODEL.DETR.POSITION": "ScaledSineAnchors",
    "MODEL.DETR.CLASSIFIER.NAME": "Linear",
}


@dataclass(frozen=True)
class Source:
    """What tells the two apart.

    Attributes:
        name: of the source. dense, deformable: the files of configs/ that fit.
    """

    name: str
    dense: str
    deformable: str


def is_deformable(ledger: Ledger) -> bool:
    """Whether queries look at a few places on several levels."""
    return any(True for _ in matching(ledger.state, DECODER + "cross_attn.{msda}.{wb}"))


def finish(source: Source, ledger: Ledger, parts: Mapping[str, Any]) -> Conversion:
    """What the queries leave: all but them.

    Args:
        parts: config keys that the queries imply, and those that a file beside the weights tells.
    """
    ledger.leave(single_level.LEFT_OUT)
    if is_deformable(ledger):
        ledger.rename(DEFORMABLE_NAMES)
        deformable.neck(ledger, "input_proj")
        choices = {**DEFORMABLE_PARTS, **deformable.heads(ledger, "transformer."), **parts}
        choices.pop("MODEL.DETR.SINE.TEMPERATURE", None)  # told for both kinds, and used by the other one alone
        return deformable.finish_with(source.name, ledger, choices, source.deformable)
    ledger.rename(DENSE_NAMES)
    ledger.fold("transformer.decoder.bbox_embed.{rest}", "bbox_embed.{rest}", deformable.COPY)
    choices = {**DENSE_PARTS, "MODEL.DETR.ACTIVATION": activation(ledger), **parts}
    return single_level.finish(source.name, ledger, ("class_embed", "bbox_embed"), source.dense, choices)


def activation(ledger: Ledger) -> str:
    """Of the feed-forward layers: PReLU has a weight of its own."""
    return "prelu" if any(name.endswith("ffn.prelu.weight") for name in ledger.target) else "relu"


@dataclass(frozen=True)
class Contents:
    """What queries know before they look: (1, C) or (Q, C) `rows`, made of the tensor `name` of the source."""

    name: str
    rows: Tensor


def use_queries(ledger: Ledger, anchors: str, patterns: str, contents: Contents | None = None) -> str:
    """Queries from anchors (Q, 4) as logits; with P patterns (P, C), Q times P of them: every anchor with each pattern,
    which is added to the contents.

    Returns: what MODEL.DETR.CONTENT must be.
    """
    boxes, shifts = ledger.get(anchors), ledger.state.get(patterns)
    if shifts is None:
        ledger.use(anchors, "queries.anchors.weight")
        if contents is None:
            return "Zero"
        ledger.use(contents.name, "queries.content.weight", contents.rows)
        return "Common" if len(contents.rows) == 1 else "Learned"
    rows = shifts.repeat_interleave(len(boxes), dim=0)
    if contents is not None:
        rows = rows + contents.rows.repeat(len(rows) // len(contents.rows), 1)
        ledger.used.setdefault(contents.name, []).append("queries.content.weight")
    ledger.use(patterns, "queries.content.weight", rows)
    ledger.use(anchors, "queries.anchors.weight", boxes.repeat(len(shifts), 1))
    return "Learned"
