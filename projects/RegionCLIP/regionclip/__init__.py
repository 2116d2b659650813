"""RegionCLIP (CVPR 2022): CLIP's image tower as the second stage of a detector, on boxes from a network of its own.

A config that names this package in PROJECTS has the keys of `config.py`, the META_ARCHITECTURES "RegionCLIP",
"CLIPOnCrops" and "RegionCLIPPretraining", and the training stream "ImageText".
"""

from dk_detr.engine import TRAIN_STREAMS
from projects.RegionCLIP.regionclip.config import add_config
from projects.RegionCLIP.regionclip.detector import CLIPOnCrops, RegionCLIP
from projects.RegionCLIP.regionclip.pairs import build_pair_stream
from projects.RegionCLIP.regionclip.pretraining import RegionCLIPPretraining

TRAIN_STREAMS["ImageText"] = build_pair_stream

__all__ = ["CLIPOnCrops", "RegionCLIP", "RegionCLIPPretraining", "add_config"]
