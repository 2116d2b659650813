"""CLIP's ResNet as a backbone: the maps of open_clip's, from its converted weights."""

import open_clip
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn

from dk_detr.convert import convert
from dk_detr.modeling.clip_resnet import clip_resnet
from tests.model_fixtures import fixed_seed, random, stir

MAPS = ["res2", "res3", "res4", "res5"]
WIDTH = 16


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    """A thin CLIP with a ResNet-50, in which nothing is as it starts."""
    text = open_clip.model.CLIPTextCfg(context_length=8, vocab_size=20, width=64, heads=1, layers=1)
    vision = open_clip.model.CLIPVisionCfg([3, 4, 6, 3], width=WIDTH, image_size=64, head_width=16, patch_size=None)
    with fixed_seed():
        model = open_clip.model.CLIP(24, vision, text).eval()
        stir(model.visual)
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.FREEZE_AT = "build_clip_resnet_backbone", 0
    cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.OUT_FEATURES = "FrozenBN", MAPS
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = WIDTH, 4 * WIDTH
    return cfg


def test_all_maps_are_those_of_open_clip(clip: nn.Module, cfg: CfgNode) -> None:
    found = convert("open-clip", clip.state_dict())
    cfg.merge_from_list([word for pair in found.settings.items() for word in pair])
    backbone = build_backbone(cfg).eval()
    backbone.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in found.state.items()})
    image = random(1, 3, 64, 96)
    with torch.no_grad():
        maps = backbone(image)
        theirs = clip.visual.forward_intermediates(image, indices=[1, 2, 3, 4], intermediates_only=True)
    assert list(maps) == MAPS
    for mine, other in zip(maps.values(), theirs["image_intermediates"]):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_maps_have_the_sizes_that_the_backbone_says(cfg: CfgNode) -> None:
    backbone = build_backbone(cfg)
    for name, shape in backbone.output_shape().items():
        features = backbone(random(1, 3, 64, 96))[name]
        assert features.shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_frozen_stages_are_not_trained() -> None:
    backbone = clip_resnet((1, 1, 1, 1), WIDTH, "BN", MAPS, freeze_at=2)
    for part in (backbone.stem, backbone.res2):
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert isinstance(part.get_submodule("conv1" if part is backbone.stem else "0.conv1").norm, FrozenBatchNorm2d)
    assert all(parameter.requires_grad for parameter in backbone.res3.parameters())


def test_a_depth_that_clip_does_not_have_is_refused(cfg: CfgNode) -> None:
    cfg.MODEL.RESNETS.DEPTH = 18
    with pytest.raises(ValueError, match="MODEL.RESNETS.DEPTH is 18; CLIP has ResNets of 50, 101"):
        build_backbone(cfg)


def test_widths_that_do_not_go_together_are_refused(cfg: CfgNode) -> None:
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 256
    with pytest.raises(ValueError, match="MODEL.RESNETS.STEM_OUT_CHANNELS, 64"):
        build_backbone(cfg)
