"""DN-DETR, with the decoder of DAB-DETR or DAB-Deformable-DETR, as its authors' repository names it
(IDEA-Research/DN-DETR). K classes, Q queries, C channels.

Its table of labels has K + 1 rows of C - 1 numbers, to which an indicator comes: 1 for a noisy object; 0 for the last
row, which is the content of all queries that are matched, unless these have contents of their own.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dk_detr.convert import dab_detr
from dk_detr.convert.anchors import Contents, Source, finish, is_deformable, use_queries
from dk_detr.convert.conversion import Conversion
from dk_detr.convert.denoising import use_labels
from dk_detr.convert.heads import list_rows
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.names import matching

known_settings = dab_detr.known_settings  # they tell the same by the same names
LABELS = "label_enc.weight"
SIGNS = (
    (
        "transformer.decoder.layers.{n}.ca_qcontent_proj.{wb}",
        "transformer.encoder.query_scale.layers.{m}.{wb}",
        LABELS,
    ),
    (
        "transformer.decoder.layers.{n}.cross_attn.{msda}.{wb}",
        "transformer.decoder.query_scale.layers.{m}.{wb}",
        LABELS,
    ),
)
SOURCE = Source("dn-detr", "configs/dn_detr_R50.yaml", "configs/dn_deformable_detr_R50.yaml")
MATCHED = "the row for queries that are matched, which have contents of their own here"


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """The detector, and its denoising."""
    ledger = Ledger(state)
    labels = ledger.get(LABELS)
    number = _num_classes(ledger)
    if is_deformable(ledger):
        own = ledger.get("tgt_embed.weight")
        contents = Contents("tgt_embed.weight", indicated(own, 0.0))
        content = use_queries(ledger, "refpoint_embed.weight", "patterns_embed.weight", contents)
        list_rows(ledger, LABELS, {number}, MATCHED)
    else:
        contents = Contents(LABELS, indicated(labels[number:], 0.0))
        content = use_queries(ledger, "refpoint_embed.weight", "transformer.patterns.weight", contents)
    extensions = use_labels(ledger, LABELS, indicated(labels[:number], 1.0), number, "Denoising")
    return finish(SOURCE, ledger, {"MODEL.DETR.CONTENT": content, "MODEL.TRAINING_EXTENSIONS": extensions, **known})


def indicated(rows: Tensor, indicator: float) -> Tensor:
    """(…, C - 1) -> (…, C), the indicator last."""
    return torch.cat([rows, rows.new_full((len(rows), 1), indicator)], dim=1)


def _num_classes(ledger: Ledger) -> int:
    """K. Raises ValueError where there are not as many labels, and one more."""
    heads = [name for name, _ in matching(ledger.state, "class_embed{rest}") if name.endswith("bias")]
    number = len(ledger.get(heads[0] if heads else "class_embed.bias"))
    labels = len(ledger.get(LABELS))
    if labels != number + 1:
        raise ValueError(
            f"{LABELS} has {labels} rows for the {number} classes of {heads[0]}; DN-DETR has one more than classes."
        )
    return number
