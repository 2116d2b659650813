"""CLIP's image tower as a backbone: its own maps, frozen, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from dk_detr.config import add_dk_detr_config
from dk_detr.language import load_clip
from tests.model_fixtures import fixed_seed, random
from tests.run_fixtures import CLIP, write_json

TOWER = {
    **CLIP,
    "vision_cfg": {
        "timm_model_name": "test_convnext", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear",
        "image_size": 64,
    },
}  # fmt: skip


def backbone(folder: Path, content: dict[str, Any] = TOWER, weights: str = "", **settings: Any) -> Any:
    cfg = get_cfg()
    add_dk_detr_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_clip_backbone"
    cfg.MODEL.CLIP.ARCHITECTURE = write_json(folder / "clip.json", content)
    cfg.MODEL.CLIP.WEIGHTS = weights
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [122.771, 116.746, 104.094], [68.501, 66.632, 70.323]
    cfg.MODEL.TIMM.update({"NAME": "test_convnext", "PRETRAINED": "clip", **settings})
    with fixed_seed():
        return build_backbone(cfg).eval()


def test_its_maps_are_those_of_the_tower(tmp_path: Path) -> None:
    with fixed_seed(3):
        clip = load_clip("open_clip", write_json(tmp_path / "clip.json", TOWER), "")
    torch.save(clip.model.state_dict(), tmp_path / "clip.pt")
    made = backbone(tmp_path, weights=str(tmp_path / "clip.pt"))
    pixels = random(1, 3, 64, 96)
    trunk = clip.model.visual.trunk.eval()
    with torch.no_grad():
        maps = list(made(pixels).values())
        wanted = trunk.forward_intermediates(pixels, indices=len(maps), intermediates_only=True)
    for ours, theirs in zip(maps, wanted):
        torch.testing.assert_close(ours, theirs)


def test_it_stands_still_where_asked(tmp_path: Path) -> None:
    made = backbone(tmp_path, OUT_INDICES=[1, 2, 3], FREEZE_AT=3)
    assert not [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert list(made.output_shape()) == ["res3", "res4", "res5"]


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (TOWER, {"NAME": "convnext_atto"}, "is not convnext_atto (MODEL.TIMM.NAME)"),
    (CLIP, {}, "is no model of timm. Choose one that is, such as"),
    (TOWER, {"PRETRAINED": "hub"}, 'MODEL.TIMM.PRETRAINED is "hub"; choose one of'),
]


@pytest.mark.parametrize(("content", "settings", "message"), REFUSED, ids=[message[:20] for *_, message in REFUSED])
def test_other_towers_are_refused(
    content: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        backbone(tmp_path, content, **settings)
