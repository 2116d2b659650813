"""Where pictures go: each has a name of its own, and no image is overwritten."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dk_detr.commands.picture_paths import picture_paths


def test_images_of_the_same_name_get_pictures_of_different_names() -> None:
    images = [Path("a/x.jpg"), Path("b/x.jpg"), Path("c/x.png"), Path("c/x.webp"), Path("d/x_2.jpg"), Path("d/X.JPG")]
    names = [path.name for path in picture_paths(images, Path("found"))]
    assert names == ["x.jpg", "x_2.jpg", "x.png", "x_2.png", "x_2_2.jpg", "X_3.JPG"]
    assert len({name.casefold() for name in names}) == len(images), "also where the case of a name does not count"


def test_an_image_is_overwritten_neither_by_a_picture_nor_by_the_detections(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "detections.json", "PNG")
    for name in ("detections.json", "a.jpg"):
        with pytest.raises(ValueError, match=f"would overwrite the image .*{name}"):
            picture_paths([tmp_path / name], tmp_path)


def test_a_picture_of_another_image_beside_it_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"an older picture")
    with pytest.raises(ValueError, match="would overwrite the image .*a.png"):
        picture_paths([tmp_path / "a.webp"], tmp_path)
    assert picture_paths([tmp_path / "b.webp"], tmp_path) == [tmp_path / "b.png"]
