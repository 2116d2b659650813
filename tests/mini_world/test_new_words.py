"""A few labels of new words: which words, which images, and that nothing else is told."""

import json
from pathlib import Path

import pytest

from dk_detr.mini_world import MiniWorld, categories, write_new_words
from dk_detr.mini_world.new_words import new_words

WORLD = MiniWorld(seed=3, train_images=2, val_images=16, test_images=16, captions_images=2)


def test_half_of_the_novel_words_are_new_half_of_these_of_an_unseen_shape() -> None:
    of_name = {category.name: category for category in categories()}
    chosen = [of_name[name] for name in new_words()]
    assert len(chosen) == 6 and all(category.novel for category in chosen)
    assert sum(category.unseen_concept for category in chosen) == 3


def test_only_boxes_of_new_words_are_told_in_images_that_show_one(root: Path) -> None:
    train, test = (json.loads(path.read_text()) for path in write_new_words(root, 3, 100))
    assert {category["name"] for category in train["categories"]} == set(new_words())
    assert 0 < len(train["images"]) <= 3 and all(image["file_name"].startswith("val/") for image in train["images"])
    assert all(image["file_name"].startswith("test/") for image in test["images"])
    for content in (train, test):
        ids = {category["id"] for category in content["categories"]}
        assert {box["category_id"] for box in content["annotations"]} <= ids
        assert {box["image_id"] for box in content["annotations"]} == {image["id"] for image in content["images"]}
        assert all((root / image["file_name"]).is_file() for image in content["images"])


def test_less_than_one_image_is_refused(root: Path) -> None:
    with pytest.raises(ValueError, match="new_words_train.json needs 1 image or more, got 0"):
        write_new_words(root, 0, 1)
