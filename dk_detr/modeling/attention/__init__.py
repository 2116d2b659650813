"""Attention: how tokens look at tokens, queries at one another, and queries at tokens."""

from dk_detr.modeling.attention.conditional import ConditionalCross, ConditionalSelf, FirstConditionalCross
from dk_detr.modeling.attention.deformable import DeformableCross, DeformableTokens
from dk_detr.modeling.attention.dense import DenseCross, DenseSelf, DenseTokens

__all__ = [
    "ConditionalCross", "ConditionalSelf", "DeformableCross", "DeformableTokens", "DenseCross", "DenseSelf",
    "DenseTokens", "FirstConditionalCross",
]  # fmt: skip
