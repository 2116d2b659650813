"""Which image files are found: nothing is left out unsaid."""

from pathlib import Path

import pytest
from PIL import Image

from dk_detr.data.image_files import find_images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images with usual, unusual, wrong and no endings, what is none, and a folder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    formats = {"a.jpg": "JPEG", "b.jfif": "JPEG", "c": "PNG", "d.upload": "GIF", "more/a.jpg": "JPEG"}
    for name, format in formats.items():
        Image.new("RGB", (8, 6)).save(folder / name, format)
    (folder / "e.png").write_text("broken, and to be named as such")
    (folder / "notes.txt").write_text("no image")
    (folder / "data.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    return folder


IMAGES = ["a.jpg", "b.jfif", "c", "d.upload", "e.png"]


def test_a_folder_gives_its_images_by_ending_or_content_and_says_what_it_leaves_out(
    photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_images([str(photos)]) == [photos / name for name in IMAGES]
    (message,) = caplog.messages
    assert message.startswith(f"Left out of {photos}: 2 files without an image (data.h5, notes.txt) and 1 folder (more")
    assert message.endswith(f'to look there too: "{photos}/**").')


def test_a_pattern_of_two_stars_looks_into_all_folders(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_images([f"{photos}/**"]) == [*(photos / name for name in IMAGES), photos / "more" / "a.jpg"]
    assert caplog.messages == [f"Left out of {photos}/**: 2 files without an image (data.h5, notes.txt)."]


def test_a_pattern_says_what_it_leaves_out(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert find_images([f"{photos}/*.jpg"]) == [photos / "a.jpg"] and not caplog.messages
    assert find_images([f"{photos}/*e*"]) == [photos / "e.png"]
    (message,) = caplog.messages
    assert "1 file without an image (notes.txt) and 1 folder (more; " in message and f'"{photos}/**"' in message


def test_a_file_that_is_named_is_taken_as_it_is(photos: Path) -> None:
    assert find_images([str(photos / "notes.txt")]) == [photos / "notes.txt"]


def test_what_is_many_is_named_in_part(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(9):
        (photos / f"m{number}.txt").touch()
    find_images([str(photos)])
    assert "11 files without an image (data.h5, m0.txt, m1.txt, m2.txt, m3.txt, and 6 more)" in caplog.text


def test_inputs_without_an_image_are_refused_and_what_was_found_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}/empty holds no images.$"):
        find_images([str(tmp_path / "empty")])
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no images. Left out of .* 1 file without an image .notes.txt."):
        find_images([str(tmp_path / "empty")])
    with pytest.raises(FileNotFoundError, match="no image or folder .*nowhere/..jpg"):
        find_images([str(tmp_path / "nowhere" / "*.jpg")])


def test_files_folders_and_patterns_are_found_once_each(tiny_images: Path) -> None:
    first, everything = tiny_images / "000001.jpg", sorted(tiny_images.iterdir())
    assert find_images([str(first), str(tiny_images), str(tiny_images / "*.jpg")]) == everything
