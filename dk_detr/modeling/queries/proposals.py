"""Proposals: detection queries from the image itself, the first stage of a two-stage DETR.

A first stage that knows only "object" and "no object" proposes things that no box was ever drawn for.
B images, S tokens, Q queries, C channels, K words of training.
"""

import math
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.layers import box_head, grid_of_cells, inverse_sigmoid, sine_position_of_boxes
from dk_detr.modeling.positions import POSITIONS
from dk_detr.modeling.quality import BoxQuality
from dk_detr.modeling.queries.content import Content
from dk_detr.modeling.queries.initial import InitialQueries, Queries
from dk_detr.structures import DETECTION, Memory, Predictions, QueryGroup
from dk_detr.utils import choose


class Proposals(Queries):
    """Every token says whether it sees an object, and where; the best become queries.

    Args:
        channels: C. num_queries: Q. anchor_size: side of the box that a token of the finest level starts from, as a
            share of the image; it doubles from level to level.
        num_words: K for a class-aware first stage (DINO): tokens have a logit for each word, their best one ranks
            them, and only the chosen are supervised. 0 for a class-agnostic one: a single logit, all are supervised.
        rates_boxes: whether tokens say, too, how well their box fits (see `BoxQuality`). Their objectness is then the
            geometric mean of both.

    Source: Deformable DETR, two-stage; class-agnostic as in DK-DETR.
    """

    reference_width, proposes, contents = 4, True, False

    @configurable
    def __init__(
        self,
        channels: int,
        num_queries: int,
        anchor_size: float = 0.05,
        num_words: int = 0,
        rates_boxes: bool = False,
    ) -> None:
        super().__init__()
        self.num_queries, self.anchor_size, self.code_width = num_queries, anchor_size, channels // 2
        self.num_words = num_words
        self.token = linear_norm(channels, channels)
        self.objectness = nn.Linear(channels, num_words or 1)
        self.box_head = box_head(channels)
        self.to_query: nn.Sequential | None = linear_norm(2 * channels, 2 * channels)
        self.quality = BoxQuality(channels, 1) if rates_boxes else None
        nn.init.constant_(self.objectness.bias, -math.log(99))  # one token in a hundred shows an object

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        sizes = {"channels": detr.CHANNELS, "num_queries": detr.NUM_QUERIES, "anchor_size": detr.ANCHOR_SIZE}
        rates_boxes = "first_stage" in detr.QUALITY.PLACES
        return {**sizes, "num_words": num_words if detr.FIRST_STAGE == "ClassAware" else 0, "rates_boxes": rates_boxes}

    def forward(self, memory: Memory) -> InitialQueries:
        """Choose Q places of each image, or all there are where the largest image of the batch has fewer."""
        anchors, valid = self._anchors(memory)
        tokens = self.token(memory.tokens.masked_fill(~valid[..., None], 0.0))
        # Full precision: half floats cannot tell neighbouring scores and corners apart.
        logits = self.objectness(tokens).float()
        boxes = (self.box_head(tokens).float() + inverse_sigmoid(anchors)).sigmoid()
        number = min(self.num_queries, memory.tokens.shape[1])
        quality = None if self.quality is None else self.quality(tokens[None])
        best = logits.detach().amax(-1)
        if quality is not None:
            best = _mean_of(best, quality[0].detach())
        top, index = best.masked_fill(~valid, -torch.inf).topk(number, dim=1)
        chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        group = self._group(chosen.detach(), memory.tokens.dtype)
        # Invalid tokens are chosen only where an image has too few valid ones. `fewest` rules that out for large images
        # without a question to the device. An exported graph cannot ask: it is for images of any size.
        exporting = torch.compiler.is_exporting()
        chosen_valid = valid.gather(1, index) if exporting or memory.fewest < 2 * self.num_queries else None
        if chosen_valid is not None and not exporting and bool(chosen_valid.all()):
            chosen_valid = None
        predictions = Predictions(logits[None], boxes[None], valid, quality)
        if self.num_words:
            of_chosen = logits.gather(1, index[..., None].expand(-1, -1, self.num_words))
            predictions = Predictions(of_chosen[None], chosen[None], chosen_valid)
        return InitialQueries(replace(group, valid=chosen_valid), top, predictions, class_aware=bool(self.num_words))

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(B, Q, C) where a query looks that starts from (B, Q, 4) boxes cxcywh in [0, 1]; None where the decoder
        derives that."""
        return self._position_and_content(boxes, dtype)[0]

    def content_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor | None:
        """See `Queries`."""
        return self._position_and_content(boxes, dtype)[1]

    def _position_and_content(self, boxes: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        assert self.to_query is not None
        position, content = self.to_query(self._code(boxes, dtype)).chunk(2, dim=-1)
        return position, content

    def _code(self, boxes: Tensor, dtype: torch.dtype) -> Tensor:
        return sine_position_of_boxes(boxes, self.code_width).to(dtype)

    def _group(self, reference: Tensor, dtype: torch.dtype) -> QueryGroup:
        position, content = self._position_and_content(reference, dtype)
        return QueryGroup(
            DETECTION, content, position, reference, attends_to=(DETECTION,), reference_from=DETECTION
        )

    def _anchors(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """Start boxes (B, S, 4) and (B, S) bool, False for tokens in the padding or on the very edge."""
        level = grid_of_cells(memory.shapes, memory.tokens.device).level
        size = (self.anchor_size * 2.0**level)[None, :, None].expand(*memory.centers.shape)
        anchors = torch.cat([memory.centers, size], dim=-1).expand(memory.tokens.shape[0], -1, -1)
        valid = ((anchors > 0.01) & (anchors < 0.99)).all(-1)
        return anchors, valid if memory.padding is None else valid & ~memory.padding


class Mixed(Proposals):
    """Position from the proposals, content learned: the image says where to look, experience what for.

    All contents start at zero: a slot is only a rank among proposals, and means nothing by itself.

    Args:
        gives_position: False where the decoder derives it from the boxes, as in DINO. Others: see `Proposals`.

    Source: mixed query selection of DINO (ICLR 2023), whose contents start from noise.
    """

    positions = "either"

    @configurable
    def __init__(
        self,
        channels: int,
        num_queries: int,
        anchor_size: float = 0.05,
        num_words: int = 0,
        rates_boxes: bool = False,
        gives_position: bool = True,
    ) -> None:
        super().__init__(channels, num_queries, anchor_size, num_words, rates_boxes)
        self.to_query = linear_norm(2 * channels, channels) if gives_position else None
        self.content = Content("Learned", num_queries, channels)
        nn.init.zeros_(self.content.weight)  # type: ignore[arg-type]

    @classmethod
    def from_config(cls, cfg: CfgNode, num_words: int) -> dict[str, Any]:
        given = choose(POSITIONS, "MODEL.DETR.POSITION", cfg.MODEL.DETR.POSITION).given
        return {**super().from_config(cfg, num_words), "gives_position": given}

    def position_of(self, boxes: Tensor, dtype: torch.dtype) -> Tensor | None:
        """See `Proposals`."""
        return None if self.to_query is None else self.to_query(self._code(boxes, dtype))

    def content_of(self, boxes: Tensor, dtype: torch.dtype) -> None:
        """None: contents are learned."""

    def _position_and_content(self, boxes: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        return self.position_of(boxes, dtype), self.content(boxes.to(dtype), boxes.shape[1])


def _mean_of(objectness: Tensor, quality: Tensor) -> Tensor:
    """Logits (…) of both -> the logit of the geometric mean of their probabilities."""
    log = ((F.logsigmoid(objectness) + F.logsigmoid(quality)) / 2).clamp(max=-1e-6)  # certainty has no logit
    return log - torch.log(-torch.expm1(log))


def linear_norm(in_channels: int, out_channels: int) -> nn.Sequential:
    """A linear layer, Xavier-uniform, and a LayerNorm."""
    linear = nn.Linear(in_channels, out_channels)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.LayerNorm(out_channels))
