"""Pretraining a small CLIP: pairs (what it sees), training (how it learns), zero_shot (what it knows)."""

from dk_detr.language.contrastive.pairs import Pairs
from dk_detr.language.contrastive.training import WEIGHTS_FILE, Recipe, pretrain, set_cone
from dk_detr.language.contrastive.zero_shot import measure, report

__all__ = ["WEIGHTS_FILE", "Pairs", "Recipe", "measure", "pretrain", "report", "set_cone"]
