"""Image models of timm as backbones: maps by stride, as timm itself gives them; any size; frozen stages; refusals."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone

from dk_detr.config import add_dk_detr_config
from tests.model_fixtures import fixed_seed, random

NAMES = ("test_convnext", "resnet18", "test_vit", "swin_tiny_patch4_window7_224", "test_efficientnet", "test_byobnet")


def backbone(name: str, **settings: Any) -> Any:
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_timm_backbone"
    cfg.MODEL.TIMM.update({"NAME": name, **settings})
    with fixed_seed():
        return build_backbone(cfg).eval()


@pytest.mark.parametrize("name", NAMES)
def test_maps_have_the_strides_that_their_names_say(name: str) -> None:
    made, pixels = backbone(name), random(2, 3, 97, 130)
    maps, shapes = made(pixels), made.output_shape()
    assert list(maps) == list(shapes)
    for key, features in maps.items():
        stride = 2 ** int(key.removeprefix("res").split("_")[0])
        assert shapes[key].stride == stride and features.shape[:2] == (2, shapes[key].channels)
        assert abs(features.shape[2] - 97 / stride) < 1.01 and abs(features.shape[3] - 130 / stride) < 1.01


def test_maps_are_those_of_timm() -> None:
    made, pixels = backbone("resnet18", OUT_INDICES=[2, 3, 4]), random(1, 3, 64, 96)
    plain = timm.create_model("resnet18", features_only=True, out_indices=(2, 3, 4)).eval()
    plain.load_state_dict(made.model.state_dict())
    with torch.no_grad():
        for ours, theirs in zip(made(pixels).values(), plain(pixels)):
            torch.testing.assert_close(ours, theirs)
    assert list(made.output_shape()) == ["res3", "res4", "res5"]


def test_maps_of_one_stride_have_names_of_their_own() -> None:
    assert list(backbone("test_vit").output_shape()) == ["res4", "res4_1", "res4_2"]


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "test_vit", "swin_tiny_patch4_window7_224"])
def test_the_first_stages_stand_still(name: str) -> None:
    free, still = backbone(name), backbone(name, FREEZE_AT=2)
    assert all(parameter.requires_grad for parameter in free.parameters())
    frozen = [key for key, parameter in still.named_parameters() if not parameter.requires_grad]
    everything = [key for key, _ in still.named_parameters()]
    assert frozen and frozen == everything[: len(frozen)] and len(frozen) < len(everything)
    maps = still(random(1, 3, 64, 64))
    first, *_, last = maps.values()
    assert not first.requires_grad and last.requires_grad


def test_batch_norms_keep_their_statistics_where_asked() -> None:
    made = backbone("resnet18", NORM="FrozenBN").train()
    kinds = {type(module) for module in made.modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {FrozenBatchNorm2d}


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    with fixed_seed(7):
        whole = timm.create_model("test_byobnet")
    torch.save(whole.state_dict(), tmp_path / "weights.pth")
    made = backbone("test_byobnet", PRETRAINED=str(tmp_path / "weights.pth"))
    name = "stages_1.0.conv1_1x1.conv.weight"
    theirs = next(value for key, value in whole.state_dict().items() if key.startswith("stages.1.") and value.ndim == 4)
    assert any(torch.equal(value, theirs) for value in made.model.state_dict().values()), name


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("convnext_tini", {}, r'timm has no model "convnext_tini" \(MODEL.TIMM.NAME\). Did you mean convnext_tiny'),
        ("resnet18", {"OUT_INDICES": [9]}, r"with MODEL.TIMM.OUT_INDICES \[9\]"),
        ("resnet18", {"PRETRAINED": "none.pth"}, r"There are no weights none.pth \(MODEL.TIMM.PRETRAINED\)"),
        ("resnet18", {"NORM": "BN"}, 'MODEL.TIMM.NORM is "BN"; choose one of own, FrozenBN'),
    ],
)
def test_what_timm_does_not_have_is_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        backbone(name, **settings)


def test_weights_that_cannot_be_downloaded_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_net(*args: Any, **settings: Any) -> None:
        raise FileNotFoundError("no such host")

    monkeypatch.setattr(timm, "create_model", no_net)
    with pytest.raises(OSError, match=r'The weights of resnet18 \(MODEL.TIMM.PRETRAINED "hub"\) are neither on this'):
        backbone("resnet18", PRETRAINED="hub")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"has no conv1.weight \(.* of .* tensors\): are these weights of resnet18"):
        backbone("resnet18", PRETRAINED=str(tmp_path / "other.pth"))
