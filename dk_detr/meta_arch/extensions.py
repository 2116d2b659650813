"""The table of training extensions, and what does not go together in it."""

from collections.abc import Callable
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from dk_detr.distillation import Distillation, refuse_bad_distillation
from dk_detr.extensions import BuildContext, ContrastiveDenoising, Denoising, TrainingExtension
from dk_detr.modeling import QUERIES, Learned
from dk_detr.utils import choose

TRAINING_EXTENSIONS: dict[str, type[TrainingExtension[Any]]] = {
    "Denoising": Denoising,
    "ContrastiveDenoising": ContrastiveDenoising,
    "Distillation": Distillation,
}
"""By their name in MODEL.TRAINING_EXTENSIONS; a project adds its own when it is imported."""


def refuse_bad_extensions(cfg: CfgNode) -> None:
    """Raises ValueError for extensions that do not exist, or do not go with one another or with the detector."""
    prefixes: dict[str, str] = {}
    for name in cfg.MODEL.TRAINING_EXTENSIONS:
        extension = choose(TRAINING_EXTENSIONS, "MODEL.TRAINING_EXTENSIONS", name)
        if extension.prefix in prefixes:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS names "{prefixes[extension.prefix]}" and "{name}", whose losses would have '
                f'the same names (loss_{extension.prefix}…): take one of them out.'
            )
        prefixes[extension.prefix] = name
        if name in CHECKS:
            CHECKS[name](cfg)


def _refuse_bad_denoising(cfg: CfgNode) -> None:
    detr = cfg.MODEL.DETR
    has_no_boxes = issubclass(QUERIES[detr.QUERIES], Learned)
    if has_no_boxes:
        names = [name for name in cfg.MODEL.TRAINING_EXTENSIONS if "Denoising" in name]
        raise ValueError(
            f'MODEL.TRAINING_EXTENSIONS "{names[0]}" starts from boxes, MODEL.DETR.QUERIES "{detr.QUERIES}" '
            'does not: choose "Anchors", "Proposals" or "Mixed".'
        )


CHECKS: dict[str, Callable[[CfgNode], None]] = {
    "Denoising": _refuse_bad_denoising,
    "ContrastiveDenoising": _refuse_bad_denoising,
    "Distillation": refuse_bad_distillation,
}


def build_extensions(cfg: CfgNode, context: BuildContext) -> nn.ModuleDict:
    """Those of MODEL.TRAINING_EXTENSIONS, by name, in this order."""
    return nn.ModuleDict({name: TRAINING_EXTENSIONS[name](cfg, context) for name in cfg.MODEL.TRAINING_EXTENSIONS})
