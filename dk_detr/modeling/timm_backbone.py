"""Any image model of timm as the backbone of any detector. B images, C channels."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from timm.models import load_state_dict
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.utils import require

NORMS = ("own", "FrozenBN")
FROM_HUB = "hub"


class TimmBackbone(Backbone):
    """Feature maps of a model of timm, made by its own `features_only`. A map of stride 8 is "res3", of 16 "res4", and
    so on, as those of Detectron2's ResNets; several of one stride are "res4", "res4_1", ….

    Args:
        model: of timm, which gives features. freeze_at: the first maps, and what makes them, do not train; 0 for none.
    """

    def __init__(self, model: nn.Module, freeze_at: int = 0) -> None:
        super().__init__()
        self.model: Any = model
        info: Any = model.feature_info
        self.strides, self.channels = list(info.reduction()), list(info.channels())
        self.names = _names(self.strides)
        self.channels_last = "NHWC" in str(getattr(model, "output_fmt", ""))
        _freeze(self.model, info.module_name()[:freeze_at])

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> maps (B, C, h, w) by name. Images are padded with zeros to whole patches."""
        patch = min(self.strides)
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, -width % patch, 0, -height % patch))
        maps = self.model(pixels)
        if self.channels_last:
            maps = [each.permute(0, 3, 1, 2) for each in maps]
        return dict(zip(self.names, maps))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """See Detectron2's `Backbone`."""
        shapes = zip(self.names, self.channels, self.strides)
        return {name: ShapeSpec(channels=channels, stride=stride) for name, channels, stride in shapes}


def _names(strides: Sequence[int]) -> list[str]:
    names: list[str] = []
    for stride in strides:
        name = f"res{stride.bit_length() - 1}"
        same = sum(other.split("_")[0] == name for other in names)
        names.append(f"{name}_{same}" if same else name)
    return names


def _freeze(model: nn.Module, makers: Sequence[str]) -> None:
    """All that comes before the last of these modules in the model, and that module."""
    flattened = (name.replace(".", "_") for name in makers)
    forms = {*makers, *flattened, *(f"model.{name}" for name in makers)}
    below = tuple(f"{form}." for form in forms)
    modules = list(model.named_modules())
    inside = [number for number, (name, _) in enumerate(modules) if name in forms or name.startswith(below)]
    for _, module in modules[: max(inside, default=-1) + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone of MODEL.TIMM.

    Raises: ValueError for a model that timm does not have, with the nearest; for maps that it does not give; for
        weights that are not its own. FileNotFoundError, OSError for weights that are not there.
    """
    own = cfg.MODEL.TIMM
    require("MODEL.TIMM.NORM", own.NORM, NORMS)
    model: Any = _created(own.NAME, list(own.OUT_INDICES), own.PRETRAINED)
    if own.NORM == "FrozenBN":
        model = FrozenBatchNorm2d.convert_frozen_batchnorm(model)
    return TimmBackbone(model, own.FREEZE_AT)


def _created(name: str, indices: list[int], pretrained: str) -> nn.Module:
    if not timm.is_model(name):
        nearest = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f" Did you mean {', '.join(nearest)}?" if nearest else ""
        raise ValueError(f'timm has no model "{name}" (MODEL.TIMM.NAME).{hint}')
    more: dict[str, Any] = {"out_indices": tuple(indices)} if indices else {}
    if pretrained == FROM_HUB:
        more |= {"pretrained": True}
    elif pretrained:
        if not Path(pretrained).is_file():
            raise FileNotFoundError(
                f'There are no weights {pretrained} (MODEL.TIMM.PRETRAINED): name a file, or "{FROM_HUB}" to download.'
            )
        more |= {"pretrained": True, "pretrained_cfg_overlay": {"file": pretrained}}
    try:
        model = _any_size(name, **more)
    except OSError as error:
        raise OSError(
            f'The weights of {name} (MODEL.TIMM.PRETRAINED "{pretrained}") are neither on this machine nor to be '
            f"downloaded: {' '.join(str(error).split())[:200]} Name a file in the place of them."
        ) from error
    except (RuntimeError, KeyError, AssertionError, IndexError) as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"timm cannot make features of {name} (MODEL.TIMM.NAME) with MODEL.TIMM.OUT_INDICES {indices} and "
            f'MODEL.TIMM.PRETRAINED "{pretrained}": {told}'
        ) from error
    if pretrained not in ("", FROM_HUB):
        _require_all(model, pretrained, name)
    return model


def _require_all(model: nn.Module, path: str, name: str) -> None:
    """timm loads what it finds. Raises ValueError for what the file did not have."""
    there = {key.replace(".", "_") for key in load_state_dict(path)}
    missing = [key for key in model.state_dict() if key.removeprefix("model.").replace(".", "_") not in there]
    if missing:
        raise ValueError(
            f"{path} (MODEL.TIMM.PRETRAINED) has no {missing[0]} ({len(missing)} of {len(model.state_dict())} "
            f"tensors): are these weights of {name} (MODEL.TIMM.NAME)?"
        )


def _any_size(name: str, **more: Any) -> nn.Module:
    """A model for images of any size; transformers have a switch for that, of one name or another."""
    for switch in ({"dynamic_img_size": True}, {"strict_img_size": False}, {}):
        try:
            made: nn.Module = timm.create_model(name, features_only=True, **switch, **more)  # type: ignore[arg-type]
            return made
        except TypeError as error:
            if not switch or not any(key in str(error) for key in switch):
                raise
    raise AssertionError("the last is without a switch")
