"""The kinds of attention that a config can name, and what each of them asks of the parts around it."""

from collections.abc import Callable
from dataclasses import dataclass

from detectron2.config import CfgNode
from torch import nn

from dk_detr.modeling.attention.conditional import ConditionalCross, ConditionalSelf, FirstConditionalCross
from dk_detr.modeling.attention.deformable import DeformableCross, DeformableTokens
from dk_detr.modeling.attention.dense import DenseCross, DenseSelf, DenseTokens


@dataclass(frozen=True)
class AttentionSizes:
    """What any kind of attention is built from; see the keys of MODEL.DETR."""

    channels: int
    num_heads: int
    dropout: float
    num_levels: int
    num_points: int
    backend: str

    @classmethod
    def of(cls, detr: CfgNode, num_levels: int) -> "AttentionSizes":
        """Those of MODEL.DETR, for so many feature levels."""
        return cls(detr.CHANNELS, detr.NUM_HEADS, detr.DROPOUT, num_levels, detr.NUM_POINTS, detr.ATTENTION_BACKEND)


Build = Callable[[AttentionSizes], nn.Module]


def _dense(part: Callable[[int, int, float], nn.Module]) -> Build:
    return lambda sizes: part(sizes.channels, sizes.num_heads, sizes.dropout)


def _deformable(part: type[DeformableTokens] | type[DeformableCross]) -> Build:
    return lambda sizes: part(sizes.channels, sizes.num_heads, sizes.num_levels, sizes.num_points, sizes.backend)


@dataclass(frozen=True)
class AttentionKind:
    """One kind of attention.

    Attributes:
        tokens: of tokens at tokens, in the encoder; None where there is none of this kind.
        queries: of queries at one another. memory: of queries at tokens; first_memory: in the first layer, where it
            differs.
        many_levels: whether it reads several feature levels, or one only.
        adds_position: whether it adds the place of a query to its content; else it compares them apart, and takes
            other codes (see `Positions.added`).
        point_layers: layers of the head that reads reference points off learned positions; 0 where it needs no points.
    """

    tokens: Build | None
    queries: Build
    memory: Build
    first_memory: Build | None = None
    many_levels: bool = False
    adds_position: bool = True
    point_layers: int = 0


ATTENTIONS: dict[str, AttentionKind] = {
    "Deformable": AttentionKind(
        tokens=_deformable(DeformableTokens),
        queries=_dense(DenseSelf),
        memory=_deformable(DeformableCross),
        many_levels=True,
        point_layers=1,
    ),
    "Dense": AttentionKind(tokens=_dense(DenseTokens), queries=_dense(DenseSelf), memory=_dense(DenseCross)),
    "Conditional": AttentionKind(
        tokens=None,
        queries=_dense(ConditionalSelf),
        memory=_dense(ConditionalCross),
        first_memory=_dense(FirstConditionalCross),
        adds_position=False,
        point_layers=2,
    ),
}
"""By their name in MODEL.DETR.ENCODER_ATTENTION (those with `tokens`) and DECODER_ATTENTION."""
