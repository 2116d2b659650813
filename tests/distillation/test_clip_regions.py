"""The teacher that looks once: regions of one map, in CLIP's colours, without what pads an image."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dk_detr.distillation import CLIPRegions
from dk_detr.distillation.teachers import TEACHERS
from dk_detr.engine import setup_cfg
from dk_detr.structures import Regions, TeacherInput
from tests.distillation.test_clip_crops import normalised, picture, regions
from tests.language.test_region_tower import RESNET, clip_of
from tests.model_fixtures import MEAN, STD, tiny_detector, tiny_distillation, tiny_input, training_losses
from tests.run_fixtures import CLIP, MINI, World, words, write_json


def teacher(folder: Path, **settings: Any) -> CLIPRegions:
    return CLIPRegions(clip_of(RESNET, folder), MEAN, STD, **{"bgr": False, **settings})


def test_a_region_that_is_the_whole_image_is_what_clip_sees_of_it(tmp_path: Path) -> None:
    one, image = teacher(tmp_path), picture(64, 64)
    seen = one(normalised(image), [(64, 64)], regions([(64, 64)], (0, 0, 0, 64, 64)))
    torch.testing.assert_close(seen, one.guest.on(image.device).encode_image(image[None] / 255), rtol=1e-3, atol=1e-4)


def test_the_channels_of_bgr_are_turned(tmp_path: Path) -> None:
    image, where = picture(64, 64), regions([(64, 64)], (0, 8, 8, 40, 40))
    straight = teacher(tmp_path)(normalised(image), [(64, 64)], where)
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    turned = teacher(tmp_path, bgr=True)(((image.flip(0) - mean) / std)[None], [(64, 64)], where)
    torch.testing.assert_close(turned, straight, rtol=1e-3, atol=1e-4)


def test_what_pads_an_image_is_zero_for_clip(tmp_path: Path) -> None:
    one, image = teacher(tmp_path), picture(64, 64)
    where, sizes = regions([(64, 64)], (0, 0, 0, 64, 64)), [(64, 64)]
    padded = normalised(image, padded=(96, 96))
    seen = one(padded, sizes, where)
    padded[:, :, 64:] = 7.0  # whatever stands there
    padded[:, :, :, 64:] = -7.0
    torch.testing.assert_close(one(padded, sizes, where), seen)


def test_scales_are_added_and_no_regions_are_no_rows(tmp_path: Path) -> None:
    image, sizes = normalised(picture(64, 96)), [(64, 96)]
    where = regions(sizes, (0, 30, 20, 60, 50), (0, 0, 0, 20, 20))
    near, far = (teacher(tmp_path, crop_scales=[scale])(image, sizes, where) for scale in (1.0, 1.5))
    both = teacher(tmp_path, crop_scales=[1.0, 1.5])(image, sizes, where)
    torch.testing.assert_close(both, F.normalize(near + far, dim=-1))
    none = Regions(*(part[:0] for part in (where.image, where.query, where.boxes)))
    assert teacher(tmp_path)(image, sizes, none).shape == (0, both.shape[1])


def test_an_image_is_seen_once_however_many_regions_and_scales(tmp_path: Path) -> None:
    one, seen = teacher(tmp_path, crop_scales=[1.0, 1.5]), []
    early = one.guest.on(torch.device("cpu")).regions.early
    early.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    sizes = [(64, 96)] * 2
    where = regions(sizes, *((number % 2, 10, 10, 40 + number, 40) for number in sorted(range(6), key=lambda n: n % 2)))
    answer = one.ask(TeacherInput(normalised(picture(64, 96), picture(64, 96, 1)), sizes), where)()
    assert seen == [(2, 3, 64, 96)] and len(answer) == 6
    assert not answer.requires_grad and not answer.is_inference()


@pytest.fixture(scope="module")
def with_resnet(world: World) -> dict[str, Any]:
    """The keys of a CLIP ResNet in the tests' world."""
    return {"MODEL__CLIP__ARCHITECTURE": write_json(world.root / "resnet.json", RESNET)}


def test_it_teaches_dk_detr_by_its_name(world: World, with_resnet: dict[str, Any], tmp_path: Path) -> None:
    world.train(
        tmp_path, config=MINI, SOLVER__MAX_ITER=2, DATASETS__TEST=(), MODEL__TEACHER__NAME="CLIPRegions", **with_resnet
    )
    assert "CLIPRegions" in (tmp_path / "config.yaml").read_text()


def test_what_cannot_be_is_refused(world: World, with_resnet: dict[str, Any]) -> None:
    compiled = setup_cfg(MINI, world.options(MODEL__DETR__COMPILED=["teacher"], **with_resnet))
    with pytest.raises(ValueError, match='COMPILED names "teacher", which is for crops of one size'):
        TEACHERS["CLIPRegions"](compiled, words())
    with pytest.raises(ValueError, match="cannot look at regions of one map"):
        TEACHERS["CLIPRegions"](setup_cfg(MINI, world.options()), words())
    assert CLIP["vision_cfg"]["patch_size"]  # the world's own is a ViT


def test_a_step_of_a_tiny_detector(tmp_path: Path) -> None:
    distillation = tiny_distillation(("semantic", "embedding_l1"), teacher=teacher(tmp_path))
    detector = tiny_detector(distillation)
    losses = training_losses(detector, [tiny_input(seed=1), tiny_input((32, 40), 3, seed=2)])
    assert losses["loss_kd_embedding_l1"] > 0
