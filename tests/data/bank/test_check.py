"""A bank is of one teacher and of certain images; anything else is refused, naming both sides and the way out."""

from pathlib import Path
from typing import Any

import pytest

from dk_detr.data.bank import (
    BankImage,
    EmbeddingBank,
    check_images,
    check_settings,
    differences,
    identity_of,
    images_of,
)
from tests.data.bank.banks import CLIP, image, write_bank


@pytest.fixture
def bank(tmp_path: Path) -> EmbeddingBank:
    return EmbeddingBank(write_bank(tmp_path / "bank", {1: 1, 2: 1, 3: 1}))


# ---- teachers ----


def check_clip(bank: EmbeddingBank, **other: Any) -> None:
    check_settings(bank, "clip", {**CLIP, **other}, "Build another.")


def test_the_teacher_of_the_bank_is_welcome(bank: EmbeddingBank) -> None:
    check_clip(bank)


@pytest.mark.parametrize(
    "other, said",
    [
        ({"library": "clip"}, 'clip.library is "open_clip" there, "clip" here'),
        ({"architecture": {"name": "RN50", "sha256": None}}, 'clip.architecture is "ViT-B-32" there, "RN50" here'),
        (
            {"weights": {"name": "mine.pt", "sha256": "0123456789abcdef"}},
            r'clip.weights is "openai" there, mine.pt \(sha256 0123456789ab\) here',
        ),
        ({"width": 640}, "clip.width is 8 there, 640 here"),
    ],
)
def test_another_teacher_is_refused_with_what_differs(bank: EmbeddingBank, other: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"{bank.folder} does not fit this config: {said}. Build another."):
        check_clip(bank, **other)


def test_files_are_compared_by_their_contents_whatever_they_are_called(tmp_path: Path) -> None:
    for name, content in (("a.pt", b"same"), ("b.pt", b"same"), ("c.pt", b"other")):
        (tmp_path / name).write_bytes(content)
    a, b, c = ({"weights": identity_of(str(tmp_path / name))} for name in ("a.pt", "b.pt", "c.pt"))
    assert differences(a, b) == []
    assert len(differences(a, c)) == 1 and "a.pt (sha256 " in differences(a, c)[0]
    assert str(tmp_path) not in differences(a, c)[0]


def test_every_difference_is_said() -> None:
    there, here = {"a": 1, "b": {"c": [1.0], "d": 2}}, {"a": 1, "b": {"c": [1.0, 1.5]}, "e": "x"}
    said = ["b.c is [1.0] there, [1.0, 1.5] here", "b.d is 2 there, absent here", 'e is absent there, "x" here']
    assert differences(there, here) == said


# ---- images ----


def test_its_images_are_welcome_in_any_order_and_so_are_some_of_them(bank: EmbeddingBank) -> None:
    check_images(bank, [image(3), image(1), image(2)])
    check_images(bank, [image(2)])


def test_a_missing_image_is_named_by_file_and_id(bank: EmbeddingBank) -> None:
    message = r"some_train, 3 images\) lacks 2 of 3 images, the first 12.jpg \(id 12\)"
    with pytest.raises(ValueError, match=message):
        check_images(bank, [image(1), image(12), image(13)])


def test_another_data_set_with_the_same_ids_is_refused(bank: EmbeddingBank) -> None:
    message = r"is of another data set: its image 2.jpg \(id 2\) is cat.jpg here"
    with pytest.raises(ValueError, match=message):
        check_images(bank, [image(1), image(2, file_name="cat.jpg")])


def test_an_image_of_another_size_is_named(bank: EmbeddingBank) -> None:
    message = r"image 3.jpg \(id 3\) is 64×48 pixels there, 32×48 here"
    with pytest.raises(ValueError, match=message):
        check_images(bank, [image(3, width=32)])


def test_two_data_sets_that_share_ids_are_refused() -> None:
    records = [{"image_id": 1, "file_name": f"{folder}/1.jpg", "height": 4, "width": 4} for folder in "ab"]
    with pytest.raises(ValueError, match="a/1.jpg and b/1.jpg have the same image id 1"):
        images_of(records)


def test_one_image_in_two_data_sets_is_one_image() -> None:
    record = {"image_id": 1, "file_name": "a/1.jpg", "height": 4, "width": 4}
    assert list(images_of([record, dict(record)])) == [1]


def test_an_id_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match='Image x.jpg has the id "x"; an embedding bank needs whole numbers'):
        BankImage.of({"image_id": "x", "file_name": "a/x.jpg", "height": 4, "width": 4})
