"""The teacher: crops that are the resized regions of the image, in CLIP's colours, all in one operation."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dk_detr.structures import Regions, TeacherInput
from tests.model_fixtures import MEAN, STD, tiny_clip, tiny_teacher


def picture(h: int, w: int, seed: int = 0) -> Tensor:
    """(3, h, w) RGB in [0, 255]."""
    return torch.rand(3, h, w, generator=torch.Generator().manual_seed(seed)) * 255


def normalised(*images: Tensor, padded: tuple[int, int] | None = None) -> Tensor:
    """The network's input: normalised, padded with zeros on the right and below."""
    h, w = padded or images[0].shape[-2:]
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    return torch.stack([F.pad((x - mean) / std, (0, w - x.shape[-1], 0, h - x.shape[-2])) for x in images])


def regions(sizes: list[tuple[int, int]], *pixels_xyxy: tuple[int, float, float, float, float]) -> Regions:
    """Regions (image, x0, y0, x1, y1) in pixels of their image."""
    boxes = []
    for image, x0, y0, x1, y1 in pixels_xyxy:
        h, w = sizes[image]
        boxes.append([(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h])
    images = torch.tensor([row[0] for row in pixels_xyxy], dtype=torch.long)
    return Regions(images, torch.arange(len(images)), torch.tensor(boxes).reshape(-1, 4))


def test_a_region_of_the_size_of_the_output_is_cut_out_pixel_by_pixel() -> None:
    image = picture(40, 48)
    crop = tiny_teacher().crop(normalised(image), [(40, 48)], regions([(40, 48)], (0, 5, 7, 13, 15)))
    torch.testing.assert_close(crop[0], image[:, 7:15, 5:13] / 255, atol=1e-5, rtol=0)


def test_boxes_are_shares_of_their_own_image() -> None:
    small, large = picture(16, 20), picture(40, 48, seed=1)
    sizes = [(16, 20), (40, 48)]
    pixels = normalised(small, large, padded=(40, 48))
    crops = tiny_teacher().crop(pixels, sizes, regions(sizes, (1, 32, 30, 40, 38), (0, 2, 3, 10, 11)))
    torch.testing.assert_close(crops[0], large[:, 30:38, 32:40] / 255, atol=1e-5, rtol=0)
    torch.testing.assert_close(crops[1], small[:, 3:11, 2:10] / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("x", "y"), [(2, 2), (3, 3), (4, 1), (1, 5)])
def test_a_region_shrunk_by_whole_factors_is_what_torch_makes_of_it(x: int, y: int) -> None:
    image = picture(48, 48)
    crop = tiny_teacher().crop(normalised(image), [(48, 48)], regions([(48, 48)], (0, 6, 3, 6 + 8 * x, 3 + 8 * y)))
    region = image[None, :, 3 : 3 + 8 * y, 6 : 6 + 8 * x]
    torch.testing.assert_close(crop, F.interpolate(region, size=(8, 8), mode="area") / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_image_enlarged_by_whole_factors_is_what_torch_makes_of_it(factor: int) -> None:
    image = picture(8 // factor, 8 // factor)
    size = image.shape[-2:]
    crop = tiny_teacher().crop(normalised(image), [size], regions([size], (0, 0, 0, size[1], size[0])))
    wanted = F.interpolate(image[None], size=(8, 8), mode="bilinear") / 255
    torch.testing.assert_close(crop, wanted, atol=1e-5, rtol=0)


def test_crops_are_rgb_whatever_the_order_of_the_input() -> None:
    image = picture(20, 20)
    where = regions([(20, 20)], (0, 2, 3, 18, 19))
    rgb = tiny_teacher().crop(normalised(image), [(20, 20)], where)
    bgr = tiny_teacher(bgr=True).crop(normalised(image.flip(0)), [(20, 20)], where)
    torch.testing.assert_close(bgr, rgb, atol=1e-5, rtol=0)


def test_a_wider_view_keeps_its_centre_and_ends_at_the_border_of_the_image() -> None:
    image = picture(40, 48)
    sizes = [(40, 48)]
    teacher, pixels = tiny_teacher(), normalised(image, padded=(64, 64))
    inside = teacher.crop(pixels, sizes, regions(sizes, (0, 10, 12, 26, 28)), scale=1.5)
    torch.testing.assert_close(inside, teacher.crop(pixels, sizes, regions(sizes, (0, 6, 8, 30, 32))))
    corner = teacher.crop(pixels, sizes, regions(sizes, (0, 32, 24, 48, 40)), scale=1.5)
    torch.testing.assert_close(corner, teacher.crop(pixels, sizes, regions(sizes, (0, 28, 20, 48, 40))))
    assert corner.min() >= 0 and corner.max() <= 1


def test_a_crop_shows_nothing_of_the_padding() -> None:
    """Enlarged crops at the border of an image too: an interpolated pixel would mix with what lies beyond."""
    image = picture(20, 20)
    teacher, where = tiny_teacher(), regions([(20, 20)], (0, 15, 14, 20, 20), (0, 0, 0, 20, 20), (0, 4, 17, 10, 20))
    alone = teacher.crop(normalised(image), [(20, 20)], where)
    for company in (picture(32, 40, seed=1), torch.full((3, 20, 24), 255.0)):
        padded = (max(20, company.shape[1]), company.shape[2])
        together = teacher.crop(normalised(image, company, padded=padded), [(20, 20), company.shape[1:]], where)
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_one_call_for_all_regions_equals_one_call_for_each() -> None:
    sizes = [(40, 48), (32, 64)]
    pixels = normalised(picture(40, 48), picture(32, 64, seed=1), padded=(40, 64))
    boxes = [(0, 1, 2, 30, 34), (0, 7, 7, 12, 39), (1, 0, 0, 64, 32), (1, 20, 3, 25, 9)]
    together = tiny_teacher((1.0, 1.5))(pixels, sizes, regions(sizes, *boxes))
    for row, box in zip(together, boxes):
        torch.testing.assert_close(tiny_teacher((1.0, 1.5))(pixels, sizes, regions(sizes, box))[0], row)
    in_pairs = tiny_teacher((1.0, 1.5), batch_size=2)(pixels, sizes, regions(sizes, *boxes))
    torch.testing.assert_close(in_pairs, together)


def test_knowledge_is_what_clip_says_of_the_crops() -> None:
    sizes, image = [(40, 48)], picture(40, 48)
    where = regions(sizes, (0, 0, 0, 48, 40), (0, 10, 10, 30, 30))
    knowledge = tiny_teacher()(normalised(image), sizes, where)
    crops = tiny_teacher().crop(normalised(image), sizes, where)
    assert not knowledge.requires_grad and not knowledge.is_inference()
    torch.testing.assert_close(knowledge, tiny_clip().encode_image(crops))
    assert (knowledge[0] - knowledge[1]).abs().max() > 1e-3


def test_several_views_are_added_and_brought_to_unit_length() -> None:
    sizes, pixels = [(40, 48)], normalised(picture(40, 48))
    where = regions(sizes, (0, 10, 10, 20, 30), (0, 5, 20, 25, 40))
    near, far = (tiny_teacher((scale,))(pixels, sizes, where) for scale in (1.0, 1.5))
    both = tiny_teacher((1.0, 1.5))(pixels, sizes, where)
    torch.testing.assert_close(both, F.normalize(near + far, dim=1))
    for embeddings in (near, far, both):
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))
    assert (near - far).abs().max() > 1e-4


def test_no_regions_are_no_question() -> None:
    knowledge = tiny_teacher()(normalised(picture(40, 48)), [(40, 48)], regions([(40, 48)]))
    assert knowledge.shape == (0, 16)


def test_half_floats_say_about_the_same() -> None:
    sizes, pixels = [(40, 48)], normalised(picture(40, 48))
    where = regions(sizes, (0, 10, 10, 20, 30), (0, 5, 20, 25, 40))
    whole, half = (tiny_teacher(dtype=dtype)(pixels, sizes, where) for dtype in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32 and 0 < (whole - half).abs().max() < 0.03


def test_the_teacher_does_not_take_over_the_half_floats_of_the_detector() -> None:
    sizes, pixels = [(40, 48)], normalised(picture(40, 48))
    where = regions(sizes, (0, 10, 10, 20, 30))
    plain = tiny_teacher()(pixels, sizes, where)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tiny_teacher()(pixels, sizes, where), plain)


def test_a_compiled_teacher_says_the_same() -> None:
    sizes, pixels = [(40, 48)], normalised(picture(40, 48))
    where = regions(sizes, (0, 10, 10, 20, 30), (0, 5, 20, 25, 40))
    plain, compiled = (tiny_teacher(compiled=compiled)(pixels, sizes, where) for compiled in (False, True))
    torch.testing.assert_close(plain, compiled)


def test_asked_it_answers_with_the_same_rows() -> None:
    sizes, pixels = [(40, 48)], normalised(picture(40, 48))
    where = regions(sizes, (0, 10, 10, 20, 30))
    assert torch.equal(tiny_teacher().ask(TeacherInput(pixels, sizes), where)(), tiny_teacher()(pixels, sizes, where))


def test_boxes_without_area_or_outside_the_image_give_finite_embeddings() -> None:
    odd = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 1e-6, 1e-6], [0.99, 0.99, 2.0, 2.0], [1.5, 0.5, 0.1, 0.1]])
    where = Regions(torch.zeros(4, dtype=torch.long), torch.arange(4), odd)
    assert torch.isfinite(tiny_teacher((1.0, 1.5))(normalised(picture(40, 48)), [(40, 48)], where)).all()


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-1.0,)])
def test_scales_that_crop_nothing_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="CROP_SCALES needs positive numbers"):
        tiny_teacher(scales)
