"""The table of training extensions, and what does not go together in it."""

from typing import Any

from detectron2.config import CfgNode
from torch import nn

from dk_detr.distillation import Distillation
from dk_detr.extensions import BuildContext, ContrastiveDenoising, Denoising, TrainingExtension
from dk_detr.utils import choose

TRAINING_EXTENSIONS: dict[str, type[TrainingExtension[Any]]] = {
    "Denoising": Denoising,
    "ContrastiveDenoising": ContrastiveDenoising,
    "Distillation": Distillation,
}
"""By their name in MODEL.TRAINING_EXTENSIONS; a project adds its own when it is imported."""

OF_DETECTION = ("", "proposal_")  # prefixes of the losses that every detector has


def refuse_bad_extensions(cfg: CfgNode) -> None:
    """Raises ValueError for extensions that do not exist, or do not go with one another or with the detector."""
    owners = dict.fromkeys(OF_DETECTION, "the detector itself")
    for name in cfg.MODEL.TRAINING_EXTENSIONS:
        extension = choose(TRAINING_EXTENSIONS, "MODEL.TRAINING_EXTENSIONS", name)
        if extension.prefix in owners:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS names "{name}", whose losses would have the names of those of '
                f"{owners[extension.prefix]} (loss_{extension.prefix}…): take one out, or give it another prefix."
            )
        owners[extension.prefix] = f'"{name}"'
        extension.refuse_bad_combinations(cfg, name)


def teaches_images(cfg: CfgNode) -> bool:
    """Whether the training of this config learns a teacher's image embeddings."""
    return any(TRAINING_EXTENSIONS[name].teaches_images for name in cfg.MODEL.TRAINING_EXTENSIONS)


def build_extensions(cfg: CfgNode, context: BuildContext) -> nn.ModuleDict:
    """Those of MODEL.TRAINING_EXTENSIONS, by name, in this order."""
    return nn.ModuleDict({name: TRAINING_EXTENSIONS[name](cfg, context) for name in cfg.MODEL.TRAINING_EXTENSIONS})
