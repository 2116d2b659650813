"""Attention: how tokens look at tokens, queries at one another, and queries at tokens."""

from dk_detr.modeling.attention.conditional import ConditionalCross, ConditionalSelf, FirstConditionalCross
from dk_detr.modeling.attention.deformable import DeformableCross, DeformableTokens
from dk_detr.modeling.attention.dense import DenseCross, DenseSelf, DenseTokens
from dk_detr.modeling.attention.kinds import ATTENTIONS, AttentionKind, AttentionSizes

__all__ = [
    "ATTENTIONS", "AttentionKind", "AttentionSizes", "ConditionalCross", "ConditionalSelf", "DeformableCross",
    "DeformableTokens", "DenseCross", "DenseSelf", "DenseTokens", "FirstConditionalCross",
]  # fmt: skip
