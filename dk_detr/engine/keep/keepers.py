"""The table of SOLVER.KEEP, and what does not go together with it."""

import logging

from detectron2.config import CfgNode
from torch import nn

from dk_detr.engine.keep.classifier_projection import ClassifierProjection
from dk_detr.engine.keep.interpolation import Interpolated
from dk_detr.engine.keep.keeper import Keeper
from dk_detr.language import is_closed
from dk_detr.utils import choose

logger = logging.getLogger(__name__)

KEEPERS: dict[str, type[Keeper]] = {"classifier_projection": ClassifierProjection, "interpolation": Interpolated}
"""By their name in SOLVER.KEEP; a project adds its own when it is imported."""


def use_keepers(cfg: CfgNode) -> None:
    """Set what follows from SOLVER.KEEP. Raises ValueError for a name that is not there."""
    for name in cfg.SOLVER.KEEP:
        settings = choose(KEEPERS, "SOLVER.KEEP", name).settings(cfg)
        cfg.merge_from_list([word for pair in settings.items() for word in pair])


def refuse_bad_keep(cfg: CfgNode, goes_on: bool) -> None:
    """Asked before training. Raises ValueError where there is nothing to keep, naming the keys.

    Args:
        goes_on: whether a run is taken up again, which does not read MODEL.WEIGHTS.
    """
    asked = said(cfg)
    if not asked:
        return
    if is_closed(cfg):
        raise ValueError(
            f"{asked} is for detectors of any words, and MODEL.DETR.CLASSIFIER.NAME "
            f'"{cfg.MODEL.DETR.CLASSIFIER.NAME}" knows those of training alone: take it out, or choose "CosineText".'
        )
    if not cfg.MODEL.WEIGHTS and not goes_on:
        raise ValueError(
            f"{asked} asks what is kept of a trained detector, and MODEL.WEIGHTS names none: add MODEL.WEIGHTS "
            "some.pth, or take it out."
        )
    for name in cfg.SOLVER.KEEP:
        choose(KEEPERS, "SOLVER.KEEP", name).refuse_bad_combinations(cfg)


def said(cfg: CfgNode) -> str:
    """What a config says of keeping, with its key; "" where it says nothing."""
    for key, names in (("DATASETS.KEEP", cfg.DATASETS.KEEP), ("SOLVER.KEEP", cfg.SOLVER.KEEP)):
        if names:
            return f"{key} {list(names)}"
    return ""


def freeze_what_is_kept(cfg: CfgNode, model: nn.Module) -> None:
    """Before the optimizer is built; logged."""
    for name in cfg.SOLVER.KEEP:
        frozen = choose(KEEPERS, "SOLVER.KEEP", name).freeze(model)
        if frozen:
            logger.info(f'SOLVER.KEEP "{name}": {len(frozen)} parameters do not train, {", ".join(frozen[:4])}.')
