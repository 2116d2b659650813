"""A torchvision ResNet, converted, is the same network in Detectron2."""

import pytest
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.resnet import build_resnet_backbone
from torch import nn

from dk_detr.convert import Conversion, convert
from tests.model_fixtures import fixed_seed, random

MAPS = ["res2", "res3", "res4", "res5"]
NETWORKS = {18: torchvision.models.resnet18, 50: torchvision.models.resnet50}
each_depth = pytest.mark.parametrize("depth", NETWORKS)


def network(depth: int) -> nn.Module:
    """With statistics that are not those of a new network."""
    with fixed_seed():
        model = NETWORKS[depth]().eval()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.running_mean, -0.2, 0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.0)
    return model


def backbone(conversion: Conversion) -> nn.Module:
    """Built with the settings that the conversion finds."""
    cfg = get_cfg()
    cfg.merge_from_list([word for pair in conversion.settings.items() for word in pair])
    cfg.MODEL.RESNETS.STRIDE_IN_1X1, cfg.MODEL.RESNETS.OUT_FEATURES = False, MAPS
    model = build_resnet_backbone(cfg, ShapeSpec(channels=3))
    model.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in conversion.state.items()})
    return model.eval()


@each_depth
def test_all_maps_are_those_of_torchvision(depth: int) -> None:
    theirs, image = network(depth), random(1, 3, 64, 96)
    conversion = convert("torchvision-resnet", theirs.state_dict())
    assert conversion.settings["MODEL.RESNETS.DEPTH"] == depth
    with torch.no_grad():
        maps = backbone(conversion)(image)
        x = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(image))))
        for name, stage in zip(MAPS, (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)):
            x = stage(x)
            torch.testing.assert_close(maps[name], x, atol=1e-4, rtol=1e-4)


def test_the_classifier_and_the_counters_are_listed() -> None:
    theirs = network(18).state_dict()
    conversion = convert("torchvision-resnet", theirs)
    assert set(conversion.used) | set(conversion.listed) == set(theirs)
    assert {"fc.weight", "fc.bias", "bn1.num_batches_tracked"} <= set(conversion.listed)
    assert not [name for name in conversion.listed if not name.startswith("fc.") and "num_batches" not in name]


def test_the_way_images_must_come_is_said() -> None:
    conversion = convert("torchvision-resnet", network(18).state_dict())
    assert "RGB" in conversion.notes[0] and conversion.config == "configs/Base-DETR.yaml"


def test_a_network_of_other_blocks_is_converted_and_said_to_have_no_depth() -> None:
    thin = torchvision.models.ResNet(torchvision.models.resnet.Bottleneck, [1, 1, 2, 1], groups=4, width_per_group=2)
    conversion = convert("torchvision-resnet", thin.state_dict())
    assert "MODEL.RESNETS.DEPTH" not in conversion.settings
    assert conversion.settings["MODEL.RESNETS.NUM_GROUPS"] == 4
    assert any("has no number" in note for note in conversion.notes)
