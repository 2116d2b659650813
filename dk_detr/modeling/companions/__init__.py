"""Companions: groups of queries that exist in training only, with objects of their own to answer for."""

from dk_detr.modeling.companions.denoising import ContrastiveDenoising, Denoising, Noisy

COMPANIONS: dict[str, type[Denoising]] = {"Denoising": Denoising, "ContrastiveDenoising": ContrastiveDenoising}
"""By their name in MODEL.DETR.COMPANIONS."""

__all__ = ["COMPANIONS", "ContrastiveDenoising", "Denoising", "Noisy"]
