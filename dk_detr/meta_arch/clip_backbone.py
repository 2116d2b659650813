"""CLIP's image tower as the backbone of a detector, where it is a model of timm, as open_clip's ConvNeXts are."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from torch import Tensor

from dk_detr.language import Clip, clip_from_config
from dk_detr.language.from_config import require_pixels_of
from dk_detr.modeling.timm_backbone import TimmBackbone, build_timm_backbone
from dk_detr.utils import require

OF_CLIP = "clip"


@BACKBONE_REGISTRY.register()
def build_clip_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The backbone of MODEL.TIMM, with the weights of the image tower of MODEL.CLIP where PRETRAINED is "clip". The
    CLIP itself is not kept.

    Raises: ValueError for another tower than MODEL.TIMM.NAME, and for images that are not normalised as its own.
    """
    own = cfg.MODEL.TIMM
    require("MODEL.TIMM.PRETRAINED", own.PRETRAINED, ("", OF_CLIP))
    plain = cfg.clone()
    plain.defrost()
    plain.MODEL.TIMM.PRETRAINED = ""
    backbone = build_timm_backbone(plain, input_shape)
    if own.PRETRAINED:
        with torch.random.fork_rng(devices=[]):  # its first weights are not kept
            clip = clip_from_config(cfg)
        require_pixels_of(clip, cfg)
        backbone.model.load_state_dict(_tower_for(backbone, clip, cfg))
    return backbone


def _tower_for(backbone: TimmBackbone, clip: Clip, cfg: CfgNode) -> dict[str, Tensor]:
    """The tower's weights by the backbone's names: timm writes "stages.0" as "stages_0" where it gives maps."""
    what = f"{cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP)"
    trunk: Any = getattr(getattr(clip.model, "visual", None), "trunk", None)
    if trunk is None:
        raise ValueError(
            f'MODEL.BACKBONE.NAME "build_clip_backbone": the image tower of {what} is no model of timm. Choose one '
            'that is, such as "convnext_base_w".'
        )
    there = {name.replace(".", "_"): weight for name, weight in trunk.state_dict().items()}
    wanted: dict[str, Tensor] = backbone.model.state_dict()
    found = {name: there.get(name.removeprefix("model.").replace(".", "_")) for name in wanted}
    odd = [name for name, weight in found.items() if weight is None or weight.shape != wanted[name].shape]
    if odd:
        raise ValueError(
            f"The image tower of {what} is not {cfg.MODEL.TIMM.NAME} (MODEL.TIMM.NAME): {odd[0]} ({len(odd)} of "
            f"{len(wanted)} tensors) is not in it, or has another shape."
        )
    return {name: weight for name, weight in found.items() if weight is not None}
