"""The mini world: what is in it, that LVIS tools read it, and that it always comes out the same."""

import json
import multiprocessing
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from lvis import LVIS, LVISEval
from PIL import Image

from dk_detr.mini_world import MiniWorld, all_concepts, categories, make_mini_world, shapes, shards
from dk_detr.mini_world.concepts import BASE_SHAPES, UNSEEN_SHAPES
from dk_detr.mini_world.files import fingerprint
from dk_detr.mini_world.lvis_format import category_records, frequency_of, image_counts
from dk_detr.mini_world.scene import _coverage

WORLD = MiniWorld(seed=3, train_images=14, val_images=6, test_images=6, captions_images=8)


def read(root: Path, split: str) -> dict:
    return json.loads((root / f"annotations/mini_lvis_{split}.json").read_text())


def contents(root: Path) -> str | None:
    return fingerprint(root, WORLD.files())


# What there is


def test_48_of_132_concepts_are_categories():
    assert len(set(all_concepts())) == 132
    assert len({category.name for category in categories()}) == 48
    assert Counter(category.frequency for category in categories()) == {"f": 12, "c": 24, "r": 12}
    assert {category.concept for category in categories()} <= set(all_concepts())


def test_half_of_the_novel_names_hold_a_word_that_no_base_name_has():
    base_words = {word for category in categories() if not category.novel for word in category.name.split("_")}
    unseen = [category for category in categories() if category.unseen_concept]
    assert len(unseen) == 6 and all(category.novel for category in unseen)
    assert all(set(category.name.split("_")) - base_words for category in unseen)
    combined = [category for category in categories() if category.novel and not category.unseen_concept]
    assert len(combined) == 6 and all(set(category.name.split("_")) <= base_words for category in combined)


def test_texture_and_colour_of_an_unseen_concept_do_not_tell_its_shape():
    shapes_of = defaultdict(set)
    for category in categories():
        if category.unseen_concept:
            shapes_of[category.concept.texture, category.concept.colour].add(category.concept.shape)
    assert all(shapes == set(UNSEEN_SHAPES) for shapes in shapes_of.values())


@pytest.mark.parametrize("shape", BASE_SHAPES + UNSEEN_SHAPES)
def test_an_outline_is_centred_has_unit_size_and_covers_its_area(shape: str):
    outline = shapes.outline(shape)
    low, high = outline.min(axis=0), outline.max(axis=0)
    assert np.allclose(low, -high) and np.isclose((high - low).max(), 1)
    # A line that crosses itself would cover another area than the shoelace formula gives.
    covered = _coverage((outline + 0.5) * 100, 100, 100).sum() / 100**2
    assert covered == pytest.approx(shapes.area(outline), rel=0.02)


def test_frequency_groups_follow_from_image_counts():
    number = {category.concept: category.id for category in categories()}
    annotations = [
        {"image_id": index, "category_id": number[item.concept]}
        for index in range(2000)
        for item in shards.lay_out_scene(0, "train", index)[1]
    ]
    counts = image_counts(annotations)
    assert [frequency_of(counts[c.id], 2000) for c in categories()] == [c.frequency for c in categories()]
    with pytest.raises(ValueError, match="training images: group"):
        category_records(annotations[:1000], 2000)


# What is written


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_boxes_lie_inside_their_image_have_area_and_fit_their_polygon(root: Path, split: str):
    data = read(root, split)
    size = {image["id"]: (image["width"], image["height"]) for image in data["images"]}
    assert data["annotations"]
    for annotation in data["annotations"]:
        x, y, width, height = annotation["bbox"]
        assert 0 <= x < x + width <= size[annotation["image_id"]][0]
        assert 0 <= y < y + height <= size[annotation["image_id"]][1]
        polygon = np.reshape(annotation["segmentation"][0], (-1, 2))
        assert polygon.min(axis=0) == pytest.approx([x, y])
        assert np.ptp(polygon, axis=0) == pytest.approx([width, height], abs=1e-6)
        assert 0 < annotation["area"] <= width * height + 0.01


def test_pictures_exist_and_show_the_colour_that_is_annotated(root: Path):
    data = read(root, "train")
    names = {category["id"]: category["name"] for category in data["categories"]}
    files = {image["id"]: image["file_name"] for image in data["images"]}
    strongest = {"red": 0, "green": 1, "blue": 2}
    checked = 0
    for annotation in data["annotations"]:
        texture, colour, shape = names[annotation["category_id"]].split("_")
        if texture == "plain" and colour in strongest and shape in ("circle", "square", "cross", "heart"):
            x, y, width, height = annotation["bbox"]
            picture = Image.open(root / files[annotation["image_id"]])
            assert np.argmax(picture.getpixel((int(x + width / 2), int(y + height / 2)))) == strongest[colour]
            checked += 1
    assert checked > 2


def test_the_training_file_without_rare_tells_nothing_of_novel_objects(root: Path):
    everything, norare = read(root, "train"), read(root, "train_norare")
    rare = {category["id"] for category in everything["categories"] if category["frequency"] == "r"}
    assert norare["categories"] == everything["categories"]
    assert [image["file_name"] for image in norare["images"]] == [image["file_name"] for image in everything["images"]]
    assert norare["annotations"] == [a for a in everything["annotations"] if a["category_id"] not in rare]
    assert len(norare["annotations"]) < len(everything["annotations"])
    assert not any(rare & set(image["neg_category_ids"]) for image in norare["images"])


def test_lvis_reads_it_and_counts_every_false_positive(root: Path):
    truth = LVIS(str(root / "annotations/mini_lvis_test.json"))
    everywhere = [
        {"image_id": image, "category_id": category, "bbox": [0, 0, 9, 9], "score": 0.5}
        for image in truth.get_img_ids()
        for category in truth.get_cat_ids()
    ]
    evaluation = LVISEval(truth, everywhere, "bbox")
    evaluation._prepare()
    assert sum(map(len, evaluation._dts.values())) == 6 * 48


def test_categories_are_listed_alike_in_all_splits_with_the_counts_of_training(root: Path):
    train = read(root, "train")
    assert read(root, "val")["categories"] == read(root, "test")["categories"] == train["categories"]
    instances = Counter(annotation["category_id"] for annotation in train["annotations"])
    assert [category["instance_count"] for category in train["categories"]] == [instances[i] for i in range(1, 49)]
    assert [category["name"] for category in train["categories"]] == sorted(c.name for c in categories())
    assert sum(category.get("unseen_concept", False) for category in train["categories"]) == 6


def test_captions_name_what_the_crops_show(root: Path):
    crops = np.load(root / "captions/crops.npy")
    names = json.loads((root / "captions/captions.json").read_text())
    assert crops.shape == (len(names), 40, 40, 3) and crops.dtype == np.uint8
    known = {concept.name.replace("_", " ") for concept in all_concepts()}
    assert set(names) <= known | {"background"} and "background" in names
    reds = [crop for crop, name in zip(crops, names, strict=True) if name.startswith("plain red")]
    assert reds and all((crop.argmax(axis=2) == 0).mean() > 0.2 for crop in reds)


# How it is made


def test_the_number_of_workers_and_the_size_of_shards_do_not_show(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 4)
    make_mini_world(tmp_path, WORLD, workers=3)
    assert contents(tmp_path) == contents(root) is not None


def test_another_seed_makes_another_world(root: Path, tmp_path: Path):
    make_mini_world(tmp_path, MiniWorld(4, *(WORLD.size(split) for split in ("train", "val", "test", "captions"))))
    assert contents(tmp_path) != contents(root)


def test_a_killed_run_goes_on_and_ends_the_same(root: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_SIZE", 2)
    run = multiprocessing.get_context("fork").Process(target=make_mini_world, args=(tmp_path, WORLD, 2))
    run.start()
    while len(list(tmp_path.glob(".parts/*"))) < 3:
        time.sleep(0.001)
    run.kill()
    run.join()
    assert json.loads((tmp_path / "manifest.json").read_text())["fingerprint"] is None
    make_mini_world(tmp_path, WORLD)
    assert contents(tmp_path) == contents(root)
    assert not list(tmp_path.rglob("*.tmp")) and not (tmp_path / ".parts").exists()


def test_a_finished_world_is_left_alone(root: Path, capsys: pytest.CaptureFixture[str]):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_mini_world(root, WORLD)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_lost_or_changed_file_is_made_again(root: Path, tmp_path: Path):
    make_mini_world(tmp_path, WORLD)
    (tmp_path / "train/000002.jpg").unlink()
    (tmp_path / "captions/captions.json").write_text("[]")
    make_mini_world(tmp_path, WORLD)
    assert contents(tmp_path) == contents(root)


def test_another_world_in_the_same_folder_is_refused_by_its_arguments(root: Path):
    with pytest.raises(ValueError, match=r"another mini world \(seed 3 instead of 9\)"):
        make_mini_world(root, MiniWorld(9, *(WORLD.size(split) for split in ("train", "val", "test", "captions"))))


def test_a_world_without_images_is_refused_by_name():
    with pytest.raises(ValueError, match="val_images of a mini world must be 1 or more, got 0"):
        MiniWorld(val_images=0)
