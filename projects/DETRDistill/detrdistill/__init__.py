"""DETRDistill (ICCV 2023): a detector teaches a detector. So do its rivals: FitNet, MGD, FGD and KD-DETR.

A config that names this package in PROJECTS has the keys of `config.py`, the training extension "DETRDistill", and
"distillation" for SOLVER.KEEP.
"""

from dk_detr.engine.keep import KEEPERS
from dk_detr.meta_arch.extensions import TRAINING_EXTENSIONS
from projects.DETRDistill.detrdistill.config import add_config
from projects.DETRDistill.detrdistill.extension import DETRDistill
from projects.DETRDistill.detrdistill.keep import EXTENSION, StartTeaches
from projects.DETRDistill.detrdistill.terms import TERMS

TRAINING_EXTENSIONS[EXTENSION] = DETRDistill
KEEPERS["distillation"] = StartTeaches

__all__ = ["TERMS", "DETRDistill", "add_config"]
