"""The table of training extensions, and what does not go together in it."""

from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from dk_detr.distillation import Distillation
from dk_detr.extensions import BoxDenoising, BuildContext, ContrastiveDenoising, Denoising, OneToMany, TrainingExtension
from dk_detr.utils import choose

TRAINING_EXTENSIONS: dict[str, type[TrainingExtension[Any]]] = {
    "Denoising": Denoising,
    "ContrastiveDenoising": ContrastiveDenoising,
    "BoxDenoising": BoxDenoising,
    "OneToMany": OneToMany,
    "Distillation": Distillation,
}
"""By their name in MODEL.TRAINING_EXTENSIONS; a project adds its own when it is imported."""

OF_DETECTION = ("", "proposal_", "mask_")  # prefixes of the losses that every detector has


def refuse_bad_extensions(cfg: CfgNode) -> None:
    """Raises ValueError for extensions that do not exist, or do not go with one another or with the detector."""
    owners: dict[str, str] = {}
    for name in cfg.MODEL.TRAINING_EXTENSIONS:
        extension = choose(TRAINING_EXTENSIONS, "MODEL.TRAINING_EXTENSIONS", name)
        if extension.prefix in OF_DETECTION:
            raise ValueError(
                f'The training extension "{name}" has the prefix "{extension.prefix}" of the detector\'s own losses '
                f"(loss_{extension.prefix}…): give it another."
            )
        if extension.prefix in owners:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS names "{owners[extension.prefix]}" and "{name}", whose losses would have '
                f"the same names (loss_{extension.prefix}…): take one of them out."
            )
        owners[extension.prefix] = name
        extension.refuse_bad_combinations(cfg, name)


def require_own_losses(name: str, prefix: str, losses: Iterable[str]) -> None:
    """Raises ValueError for a loss without the prefix of its extension: it could take the place of another's."""
    strangers = [loss for loss in losses if not loss.startswith(f"loss_{prefix}")]
    if strangers:
        raise ValueError(f'The training extension "{name}" gives {strangers[0]}; its losses begin with loss_{prefix}.')


def teaches_image_embeddings(cfg: CfgNode) -> bool:
    """Whether the training of this config learns a teacher's image embeddings."""
    return any(TRAINING_EXTENSIONS[name].teaches_image_embeddings for name in cfg.MODEL.TRAINING_EXTENSIONS)


def build_extensions(cfg: CfgNode, context: BuildContext) -> nn.ModuleDict:
    """Those of MODEL.TRAINING_EXTENSIONS, by name, in this order."""
    return nn.ModuleDict({name: TRAINING_EXTENSIONS[name](cfg, context) for name in cfg.MODEL.TRAINING_EXTENSIONS})
