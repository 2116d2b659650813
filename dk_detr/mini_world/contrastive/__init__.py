"""Pretraining a small CLIP: pairs (what it sees), training (how it learns), zero_shot (what it knows)."""

from dk_detr.mini_world.contrastive.pairs import Pairs
from dk_detr.mini_world.contrastive.training import WEIGHTS_FILE, Recipe, pretrain, set_cone
from dk_detr.mini_world.contrastive.zero_shot import measure, report

__all__ = ["WEIGHTS_FILE", "Pairs", "Recipe", "measure", "pretrain", "report", "set_cone"]
