"""Decoder: the loop of the DETR series over query groups. B images, Q queries, C channels, D layers."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.layers import Dropout
from dk_detr.modeling.adamixer import AdaMixer
from dk_detr.modeling.attention import ATTENTIONS, AttentionSizes
from dk_detr.modeling.box_parameterization import BOX_PARAMETERIZATIONS
from dk_detr.modeling.decoder_checks import refuse_bad_loop
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.modeling.positions import POSITIONS, Positions, QueryPosition
from dk_detr.modeling.refinement import REFINEMENTS, Refinement, box_heads
from dk_detr.structures import Memory, QuerySet, Trace
from dk_detr.utils import choose, require


class DecoderLayer(nn.Module):
    """Queries talk among themselves, then look at the memory.

    Args:
        self_attention, cross_attention: of modeling/attention.
    """

    def __init__(
        self, self_attention: nn.Module, cross_attention: nn.Module, ffn: FeedForward, channels: int, dropout: float
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.norm2 = nn.LayerNorm(channels)
        self.ffn = ffn
        self.dropout = Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        position: QueryPosition,
        reference: Tensor | None,
        memory: Memory,
        attention_mask: Tensor | None,
    ) -> Tensor:
        """(B, Q, C) content, (B, Q, 2 or 4) reference, (Q, Q) or (B, Q, Q) attention_mask -> (B, Q, C)."""
        content = self.norm1(content + self.dropout(self.self_attention(content, position, attention_mask)))
        seen = self.cross_attention(content, position, reference, memory)
        return self.ffn(self.norm2(content + self.dropout(seen)))


class Decoder(nn.Module):
    """The loop over query groups: each layer attends, predicts boxes, and passes them on as references.

    Args:
        layers: D of them. box_heads: one for each layer, or a single one for all.
        positions: what queries are told about their places. refinement: where the next layer starts.
        norm: applied before the heads; the next layer gets the output as it was before.
    """

    @configurable
    def __init__(
        self,
        layers: list[DecoderLayer],
        box_heads: Sequence[nn.Module],
        positions: Positions,
        refinement: Refinement,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.box_heads = nn.ModuleList(box_heads)
        self.positions, self.refinement = positions, refinement
        self.norm = norm or nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode, strides: Sequence[int | None], reference_width: int) -> dict[str, Any]:
        """`strides` of the levels, in pixels. `reference_width`: queries start from points (2), boxes (4), or neither
        (0)."""
        detr = cfg.MODEL.DETR
        boxes = choose(BOX_PARAMETERIZATIONS, "MODEL.DETR.BOXES", detr.BOXES)()
        refinement = choose(REFINEMENTS, "MODEL.DETR.REFINEMENT", detr.REFINEMENT)(boxes)
        widths = refinement.widths(reference_width, detr.DECODER_LAYERS)
        number = {"PerLayer": detr.DECODER_LAYERS, "Shared": 1}
        require("MODEL.DETR.DECODER_NORM", detr.DECODER_NORM, ("none", "LN"))
        return {
            "layers": [_layer(cfg, len(strides), number) for number in range(detr.DECODER_LAYERS)],
            "box_heads": box_heads(detr.CHANNELS, choose(number, "MODEL.DETR.HEADS", detr.HEADS), widths),
            "positions": choose(POSITIONS, "MODEL.DETR.POSITION", detr.POSITION)(detr.CHANNELS),
            "refinement": refinement,
            "norm": nn.LayerNorm(detr.CHANNELS) if detr.DECODER_NORM == "LN" else None,
        }

    @property
    def num_prediction_heads(self) -> int:
        """How many box heads the layers have among them, and class projections: one for each layer, or one for all."""
        return len(self.box_heads)

    @staticmethod
    def refuse_bad_combinations(detr: CfgNode) -> None:
        """Raises ValueError for keys of MODEL.DETR that do not go together in it."""
        refuse_bad_loop(detr)

    def forward(self, queries: QuerySet, memory: Memory) -> Trace:
        """Send the groups through the layers; see `QuerySet` for who sees whom and who follows whom."""
        content, given, attention_mask = queries.content, queries.position, queries.attention_mask()
        reference = queries.reference
        start = self.refinement.start(reference)
        hidden_states, boxes = [], []
        for number, layer in enumerate(self.layers):
            position = self.positions(given, content, reference, number)
            content = layer(content, position, reference, memory, attention_mask)
            hidden_states.append(self.norm(content))
            boxes.append(self._boxes(number, start, hidden_states[-1], memory))
            raw_boxes = partial(self._boxes, number, reference, content, memory)
            reference, start = self.refinement.next_reference(queries, reference, boxes[-1], raw_boxes)
        return Trace(torch.stack(hidden_states), torch.stack(boxes), queries)

    def _boxes(self, layer: int, start: Tensor | None, hidden_states: Tensor, memory: Memory) -> Tensor:
        delta = self.box_heads[layer % len(self.box_heads)](hidden_states)
        return self.refinement.decode_boxes(start, delta, memory.image_sizes)


def _layer(cfg: CfgNode, num_levels: int, number: int) -> DecoderLayer:
    detr = cfg.MODEL.DETR
    kind = choose(ATTENTIONS, "MODEL.DETR.DECODER_ATTENTION", detr.DECODER_ATTENTION)
    sizes = AttentionSizes.of(detr, num_levels)
    of_memory = kind.first_memory if number == 0 and kind.first_memory else kind.memory
    return DecoderLayer(kind.queries(sizes), of_memory(sizes), FeedForward(cfg), detr.CHANNELS, detr.DROPOUT)


DECODERS: dict[str, Any] = {"DETR": Decoder, "AdaMixer": AdaMixer}
"""By their name in MODEL.DETR.DECODER. One that does not fit the loop is an entry of its own: a module that is built
from a config, the strides of the levels and the width of the queries' references, and makes of a `QuerySet` and a
`Memory` a `Trace`. It has `num_prediction_heads`, says in `refuse_bad_combinations(MODEL.DETR)` what it cannot use, and
has `layers` if these are to be compiled or checkpointed, or counted by what pairs them with another detector's."""
