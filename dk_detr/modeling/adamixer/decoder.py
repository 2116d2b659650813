"""AdaMixer's decoder: stages over query groups, on feature maps that no encoder has mixed.

B images, Q queries, C channels, D stages, H heads.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.modeling.adamixer.geometry import code_of_boxes, log_iof, sides_of
from dk_detr.modeling.adamixer.mixing import AdaptiveMixing
from dk_detr.modeling.adamixer.sampling import AdaptiveSampling
from dk_detr.modeling.attention.dense import DenseAttention
from dk_detr.modeling.box_parameterization import BoxParameterization, ScaleRatio
from dk_detr.modeling.decoder_checks import refusal
from dk_detr.modeling.feed_forward import FeedForward
from dk_detr.modeling.queries import QUERIES
from dk_detr.structures import Memory, QuerySet, Trace


class BiasedSelfAttention(DenseAttention):
    """Queries talk among themselves, and the more, the more of their own box lies in the other's.

    Values carry the code of the box, too, and so does what comes out beside the attention: an oversight of the authors,
    who kept it, since all published weights have it.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__(channels, num_heads, dropout=0.0)
        self.iof_tau = nn.Parameter(torch.rand(num_heads) * 4)

    def forward(self, content: Tensor, boxes: Tensor, attention_mask: Tensor | None) -> Tensor:  # type: ignore[override]
        """(B, Q, C) content, (B, Q, 4) boxes cxcywh in pixels -> (B, Q, C); what is masked stays masked."""
        at = content + code_of_boxes(boxes, content.shape[-1]).to(content.dtype)
        bias = self.iof_tau[:, None, None] * log_iof(boxes)[:, None]
        return at + self.attend(at, at, at, attention_mask, bias)


class Stage(nn.Module):
    """Self-attention, sampling, mixing, feed-forward, and two branches for what a query says.

    Args:
        channels: C. sampling, mixing: of what lies around a box. ffn: what follows.
    """

    def __init__(
        self, channels: int, num_heads: int, sampling: AdaptiveSampling, mixing: AdaptiveMixing, ffn: FeedForward
    ) -> None:
        super().__init__()
        self.self_attention = BiasedSelfAttention(channels, num_heads)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.sampling, self.mixing, self.ffn = sampling, mixing, ffn
        self.class_branch, self.box_branch = _branch(channels), _branch(channels)
        self.box_head = nn.Linear(channels, 4)
        nn.init.zeros_(self.box_head.weight)
        nn.init.zeros_(self.box_head.bias)

    def forward(
        self, content: Tensor, boxes: Tensor, memory: Memory, attention_mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, Q, C) content and (B, Q, 4) boxes cxcywh in pixels -> content of the next stage, hidden states (B, Q, C),
        which are those of the class branch, and the numbers of the box head (B, Q, 4)."""
        content = self.norm1(self.self_attention(content, boxes, attention_mask))
        content = self.norm2(content + self.mixing(self.sampling(content, boxes, memory), content))
        content = self.ffn(content)
        return content, self.class_branch(content), self.box_head(self.box_branch(content))


class AdaMixer(nn.Module):
    """The stages, one after the other. Each box starts from the one before, without its gradient.

    Args:
        stages: D of them. boxes: how boxes are made of the last ones.

    Source: AdaMixer, Gao et al. (CVPR 2022), in the form of its release.
    """

    @configurable
    def __init__(self, stages: Sequence[Stage], boxes: BoxParameterization) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)
        self.boxes = boxes

    @classmethod
    def from_config(cls, cfg: CfgNode, strides: Sequence[int | None], reference_width: int) -> dict[str, Any]:
        detr, own = cfg.MODEL.DETR, cfg.MODEL.DETR.ADAMIXER
        if None in strides:
            raise ValueError(
                f'MODEL.DETR.DECODER "AdaMixer" samples by the strides of the levels {list(detr.IN_FEATURES)}, and the '
                "backbone does not tell them (ShapeSpec.stride)."
            )
        known = [stride for stride in strides if stride is not None]

        def stage() -> Stage:
            sampling = AdaptiveSampling(detr.CHANNELS, own.GROUPS, own.POINTS, known, detr.ATTENTION_BACKEND)
            mixing = AdaptiveMixing(detr.CHANNELS, own.GROUPS, own.POINTS, own.OUT_POINTS)
            return Stage(detr.CHANNELS, detr.NUM_HEADS, sampling, mixing, FeedForward(cfg))

        return {"stages": [stage() for _ in range(detr.DECODER_LAYERS)], "boxes": ScaleRatio()}

    @property
    def num_prediction_heads(self) -> int:
        """One for each stage."""
        return len(self.layers)

    @staticmethod
    def refuse_bad_combinations(detr: CfgNode) -> None:
        """Raises ValueError for keys of MODEL.DETR that do not go together in it."""
        if detr.DECODER_LAYERS < 1:
            raise ValueError(f"MODEL.DETR.DECODER_LAYERS must be at least 1, got {detr.DECODER_LAYERS}.")
        queries, needed = QUERIES[detr.QUERIES], {"BOXES": "ScaleRatio", "HEADS": "PerLayer"}
        if not queries.starts_from_boxes:
            raise refusal(detr, "DECODER", "QUERIES", "has no boxes to start from", 'choose "WholeImage" or "Anchors"')
        for key, value in needed.items():
            if detr[key] != value:
                raise refusal(detr, "DECODER", key, "is of another decoder", f'set the latter to "{value}"')
        for key, value in detr.ADAMIXER.items():
            if value < 1:
                raise ValueError(f"MODEL.DETR.ADAMIXER.{key} must be at least 1, got {value}.")
        for key, number in {"ADAMIXER.GROUPS": detr.ADAMIXER.GROUPS, "NUM_HEADS": detr.NUM_HEADS}.items():
            if detr.CHANNELS % number:
                wanted = f"a multiple of MODEL.DETR.{key} {number}"
                raise ValueError(f"MODEL.DETR.CHANNELS {detr.CHANNELS} must be {wanted}.")

    def forward(self, queries: QuerySet, memory: Memory) -> Trace:
        """See `Decoder`."""
        content, reference, attention_mask = queries.content, queries.reference, queries.attention_mask()
        assert reference is not None  # as refused above
        if memory.padding is not None:  # as outside of the map: nothing
            memory = replace(memory, tokens=memory.tokens.masked_fill(memory.padding[..., None], 0.0))
        sides = sides_of(memory.image_sizes, content.device)
        hidden_states, boxes = [], []
        for stage in self.layers:
            pixels = reference.detach().float() * sides
            content, hidden, delta = stage(content, pixels, memory, attention_mask)
            hidden_states.append(hidden)
            boxes.append(self.boxes.decode(reference, delta, memory.image_sizes))
            reference = queries.next_references(boxes[-1], reference).detach()
        return Trace(torch.stack(hidden_states), torch.stack(boxes), queries)


def _branch(channels: int) -> nn.Sequential:
    linear = nn.Linear(channels, channels)
    nn.init.xavier_uniform_(linear.weight)
    return nn.Sequential(linear, nn.LayerNorm(channels), nn.ReLU())
