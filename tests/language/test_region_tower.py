"""An image tower cut in two: of a whole image it says what CLIP says; of a region, what it says of the cells there."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from dk_detr.language import Clip, load_clip, region_tower
from tests.run_fixtures import CLIP, write_json

RESNET = {**CLIP, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16, "patch_size": None}}
TIMM = {
    **CLIP,
    "vision_cfg": {"image_size": 32, "timm_model_name": "test_byobnet", "timm_pool": "avg", "timm_proj": "linear"},
}
VIT = {**TIMM, "vision_cfg": {**TIMM["vision_cfg"], "timm_model_name": "test_vit"}}


def clip_of(config: dict[str, Any], folder: Path) -> Clip:
    torch.manual_seed(0)
    clip = load_clip("open_clip", write_json(folder / "clip.json", config), "")
    for parameter in clip.model.parameters():  # some start at zero, and a stage that does nothing hides what it is
        parameter.data += 0.02 * torch.randn_like(parameter)
    return clip


def image(side: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", [RESNET, TIMM], ids=["ModifiedResNet", "timm"])
def test_a_region_that_is_the_whole_image_is_what_clip_sees(config: dict[str, Any], tmp_path: Path) -> None:
    clip = clip_of(config, tmp_path)
    tower, side = region_tower(clip), clip.image_size
    with torch.no_grad():
        pixels = image(side)
        boxes = torch.tensor([[0.0, 0.0, side, side]]).expand(2, 4)
        rows = tower.encode(tower.map_of(pixels), torch.tensor([1, 0]), boxes)
        torch.testing.assert_close(rows, clip.model.encode_image(pixels).flip(0), rtol=1e-4, atol=1e-5)
    assert (tower.stride, tower.side) == (16, side // 16)


@pytest.mark.parametrize("config", [RESNET, TIMM], ids=["ModifiedResNet", "timm"])
def test_regions_are_cut_where_they_lie_and_any_number_at_once(config: dict[str, Any], tmp_path: Path) -> None:
    tower = region_tower(clip_of(config, tmp_path))
    side = tower.side * tower.stride
    with torch.no_grad():
        features = tower.map_of(image(3 * side))
        boxes = torch.tensor([[16.0, 32.0, 16.0 + side, 32.0 + side], [0.0, 0.0, 50.0, 20.0]])
        rows = tower.encode(features, torch.tensor([1, 0]), boxes, batch_size=1)
        cut = features[1:, :, 2 : 2 + tower.side, 1 : 1 + tower.side]
        torch.testing.assert_close(rows[:1], tower.pool(tower.stage(cut)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tower.encode(features, torch.tensor([1, 0]), boxes), rows, rtol=1e-4, atol=1e-5)


def test_the_cells_of_rn50_and_rn50x4() -> None:
    for name, side, width in (("RN50", 14, 1024), ("RN50x4", 18, 640)):
        visual = open_clip.create_model(name, pretrained=None, device="meta").visual
        assert visual.image_size // 16 == side and visual.output_dim == width
        assert visual.attnpool.positional_embedding.shape[0] == (side // 2) ** 2 + 1


@pytest.mark.parametrize("config", [CLIP, VIT], ids=["ViT", "timm's ViT"])
def test_other_towers_are_refused_by_name(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="clip.json.* cannot look at regions of one map, for it is no chain"):
        region_tower(clip_of(config, tmp_path))
