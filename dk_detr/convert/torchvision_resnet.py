"""ResNets by torchvision's names: ImageNet weights for the backbone, and the backbones of other people's detectors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dk_detr.convert.conversion import Conversion
from dk_detr.convert.ledger import Ledger
from dk_detr.convert.whole import finish_backbone

SIGNS = (("layer1.0.conv1.weight", "layer4.0.bn1.running_mean"),)
IMAGES = "Images must come in RGB, with the mean and deviation of torchvision's models: see configs/Base-DETR.yaml."
NOTES = (
    IMAGES,
    "A backbone alone: training may start from it, nothing can be detected with it.",
)
BATCHES = "a counter of training steps, which normalisation by fixed statistics has no use for"


def resnet_names(prefix: str = "") -> dict[str, str]:
    """Names of a torchvision ResNet -> names of Detectron2's, as the backbone of a detector."""
    stem = {
        f"{prefix}conv1.weight": "backbone.stem.conv1.weight",
        f"{prefix}bn1.{{norm}}": "backbone.stem.conv1.norm.{norm}",
    }
    return stem | stage_names(prefix)


def stage_names(prefix: str) -> dict[str, str]:
    """The same for what follows the stem."""
    names = {}
    for stage in range(1, 5):
        block, ours = f"{prefix}layer{stage}.{{n}}", f"backbone.res{stage + 1}.{{n}}"
        names[f"{block}.conv{{m}}.weight"] = f"{ours}.conv{{m}}.weight"
        names[f"{block}.bn{{m}}.{{norm}}"] = f"{ours}.conv{{m}}.norm.{{norm}}"
        names[f"{block}.downsample.0.weight"] = f"{ours}.shortcut.weight"
        names[f"{block}.downsample.1.{{norm}}"] = f"{ours}.shortcut.norm.{{norm}}"
    return names


def resnet_left_out(prefix: str = "") -> dict[str, str]:
    """Tensors of a torchvision ResNet that a backbone has no use for."""
    return {f"{prefix}{{rest}}.num_batches_tracked": BATCHES}


def convert(state: Mapping[str, Tensor], known: Mapping[str, Any]) -> Conversion:
    """ImageNet classifiers -> a backbone."""
    ledger = Ledger(state)
    ledger.rename(resnet_names())
    ledger.leave({**resnet_left_out(), "fc.{wb}": "the classifier of ImageNet's 1000 classes: a detector has its own"})
    return finish_backbone("torchvision-resnet", ledger, NOTES)
