"""RegionCLIP (CVPR 2022): CLIP's image tower as the second stage of a detector, on boxes from a network of its own.

A config that names this package in PROJECTS has the keys of `config.py` and the META_ARCHITECTURE "RegionCLIP".
"""

from projects.RegionCLIP.regionclip.config import add_config
from projects.RegionCLIP.regionclip.detector import RegionCLIP

__all__ = ["RegionCLIP", "add_config"]
