"""ViLD (ICLR 2022), two stages: Detectron2's Mask R-CNN with text embeddings for a classifier and CLIP for a teacher.

A config that names this package in PROJECTS has the keys of `config.py` and the META_ARCHITECTURE "ViLD".
"""

from projects.ViLD.vild.config import add_config
from projects.ViLD.vild.detector import ViLD

__all__ = ["ViLD", "add_config"]
