"""Split files of benchmarks: what they hold, by hand on small cases, and on photos of COCO where they are."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dk_detr.annotations.ov_coco import BASE, NOVEL
from dk_detr.data import categories_of, load_coco_format, register
from dk_detr.data.prepare import (
    convert_objects365,
    convert_voc,
    drop_rare,
    split_coco,
    split_custom,
    take_minival,
    without_rare,
)
from dk_detr.data.prepare.counts import Accept, Published
from dk_detr.data.prepare.objects365 import PUBLISHED, SPELLINGS, readable_spelling
from tests.run_fixtures import COCO_IDS, REPOSITORY, write_json

COCO128 = Path(os.environ.get("COCO128", REPOSITORY.parent / "shared" / "data" / "coco128"))
needs_coco128 = pytest.mark.skipif(not COCO128.is_dir(), reason="no photos of COCO; their folder is COCO128")

LVIS: dict[str, Any] = {
    "info": {"version": "1"},
    "images": [
        {"id": 1, "neg_category_ids": [2, 3], "coco_url": "http://images/train2017/1.jpg"},
        {"id": 2, "neg_category_ids": [], "coco_url": "http://images/val2017/2.jpg"},
    ],
    "annotations": [{"id": 10, "image_id": 1, "category_id": 1}, {"id": 11, "image_id": 2, "category_id": 3}],
    "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "c"}, {"id": 3, "frequency": "r"}],
}


def read(path: Path | str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())  # type: ignore[no-any-return]


def ids(content: dict[str, Any], key: str = "annotations") -> list[int]:
    return [element["id"] for element in content[key]]


# ---- OV-LVIS ----


def test_rare_boxes_go_and_images_and_categories_stay(tmp_path: Path) -> None:
    written = drop_rare(write_json(tmp_path / "train.json", LVIS), str(tmp_path / "norare.json"), "any")
    content = read(tmp_path / "norare.json")
    assert ids(content) == [10] and ids(content, "images") == [1, 2]
    assert content["images"][0]["neg_category_ids"] == [2]
    assert content["categories"] == LVIS["categories"] and content["info"] == LVIS["info"]
    assert written.counts == {"images": 2, "annotations": 1, "categories": 3}
    assert "1 boxes of 1 rare categories left out" in written.report()
    assert content == without_rare(LVIS)


def test_what_is_no_lvis_file_is_refused(tmp_path: Path) -> None:
    source = write_json(tmp_path / "coco.json", {**LVIS, "categories": [{"id": 1}]})
    with pytest.raises(ValueError, match="no categories of frequency r"):
        drop_rare(source, str(tmp_path / "out.json"), "any")
    with pytest.raises(FileNotFoundError, match="missing.json"):
        drop_rare(str(tmp_path / "missing.json"), str(tmp_path / "out.json"), "any")
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]


def test_minival_is_the_part_of_val_that_is_in_val2017(tmp_path: Path) -> None:
    take_minival(write_json(tmp_path / "val.json", LVIS), str(tmp_path / "mini.json"), "any")
    content = read(tmp_path / "mini.json")
    assert ids(content, "images") == [2] and ids(content) == [11] and len(content["categories"]) == 3


def test_a_file_without_val2017_is_no_source_of_minival(tmp_path: Path) -> None:
    source = write_json(tmp_path / "val.json", {**LVIS, "images": LVIS["images"][:1]})
    with pytest.raises(ValueError, match="no image of val2017"):
        take_minival(source, str(tmp_path / "mini.json"), "any")


# ---- OV-COCO ----


@pytest.fixture
def coco(tmp_path: Path) -> str:
    """Image 1: a person, a cat; 2: a cat; 3: a traffic light; 4: nothing; 5: a dog without area, a crowd."""
    boxes = [(1, "person"), (1, "cat"), (2, "cat"), (3, "traffic light"), (5, "dog"), (5, "person")]
    annotations = [
        {"id": i, "image_id": image, "category_id": COCO_IDS[name], "bbox": [0, 0, 9, 0 if name == "dog" else 9],
         "iscrowd": int(image == 5 and name == "person")}
        for i, (image, name) in enumerate(boxes, start=1)
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(1, 6)]
    categories = [{"id": number, "name": name} for name, number in sorted(COCO_IDS.items(), key=lambda pair: pair[1])]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return write_json(tmp_path / "coco.json", content)


@pytest.fixture
def parts(coco: str, tmp_path: Path) -> list[dict[str, Any]]:
    """Train, all, base, novel."""
    return [read(written.path) for written in split_coco(coco, coco, str(tmp_path / "zero-shot"), "any")]


def test_training_has_base_boxes_alone_and_the_images_that_have_one(parts: list[dict[str, Any]]) -> None:
    assert ids(parts[0], "images") == [1, 5] and ids(parts[0]) == [1, 6]


def test_validation_has_base_and_novel_boxes_and_the_images_that_have_one(parts: list[dict[str, Any]]) -> None:
    assert ids(parts[1], "images") == [1, 2, 5] and ids(parts[1]) == [1, 2, 3, 5, 6]


def test_the_constrained_parts_have_their_own_boxes_and_categories(parts: list[dict[str, Any]]) -> None:
    assert ids(parts[2]) == [1, 6] and ids(parts[2], "categories") == sorted(BASE.values())
    assert ids(parts[3]) == [2, 3, 5] and ids(parts[3], "categories") == sorted(NOVEL.values())


def test_training_and_validation_list_the_65_and_say_which_training_has_seen(parts: list[dict[str, Any]]) -> None:
    for part in parts[:2]:
        assert ids(part, "categories") == sorted({**BASE, **NOVEL}.values())
        assert {c["name"] for c in part["categories"] if c["split"] == "unseen"} == set(NOVEL)


def test_the_files_have_the_names_of_detics(coco: str, tmp_path: Path) -> None:
    split_coco(coco, coco, str(tmp_path / "zero-shot"), "any")
    assert {path.name for path in (tmp_path / "zero-shot").iterdir()} >= {
        "instances_train2017_seen_2_oriorder.json", "instances_val2017_all_2_oriorder.json",
    }  # fmt: skip


def test_a_box_without_area_is_kept_for_scoring_and_not_loaded(coco: str, tmp_path: Path) -> None:
    written = split_coco(coco, coco, str(tmp_path), "any")[1]
    assert 'not trained on ("ignore"): 5' in written.report()
    records = load_coco_format(written.path, "images", "val")
    assert [len(record["annotations"]) for record in records] == [2, 1, 1]


def test_a_file_without_cocos_categories_is_refused_by_the_first(coco: str, tmp_path: Path) -> None:
    content = read(coco)
    content["categories"][4]["name"] = "aeroplane"
    wrong = write_json(tmp_path / "wrong.json", content)
    with pytest.raises(ValueError, match='category 5 should be "airplane", not "aeroplane"'):
        split_coco(wrong, wrong, str(tmp_path / "out"), "any")


@needs_coco128
def test_ov_coco_of_real_photos_has_the_counts_that_a_loop_over_the_file_gives(tmp_path: Path) -> None:
    source = str(COCO128 / "annotations" / "instances_train2017.json")
    content = read(source)
    for written, names in zip(split_coco(source, source, str(tmp_path), "any"), (BASE, IDS_OF_65, BASE, NOVEL)):
        wanted = [box for box in content["annotations"] if box["category_id"] in names.values()]
        assert written.counts["annotations"] == len(wanted)
        assert written.counts["images"] == len({box["image_id"] for box in wanted})


IDS_OF_65 = {**BASE, **NOVEL}


@needs_coco128
def test_ov_coco_of_real_photos_loads_with_classes_among_the_65(tmp_path: Path) -> None:
    source = str(COCO128 / "annotations" / "instances_train2017.json")
    train, val, *_ = split_coco(source, source, str(tmp_path), "any")
    print(train.report(), val.report(), sep="\n")
    names = sorted(IDS_OF_65, key=IDS_OF_65.__getitem__)
    for name, written in (("train", train), ("val", val)):
        register(name, written.path, str(COCO128 / "images" / "train2017"), "ov-coco")
        assert [category["name"] for category in categories_of(name)] == names
    records = load_coco_format(train.path, str(COCO128 / "images" / "train2017"), "train")
    assert all(os.path.isfile(record["file_name"]) for record in records)
    assert {names[box["category_id"]] for record in records for box in record["annotations"]} <= set(BASE)


# ---- VOC ----

VOC = """<annotation><filename>000005.jpg</filename><size><width>500</width><height>375</height></size>
<object><name>chair</name><difficult>0</difficult><bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339</ymax>
</bndbox></object>
<object><name>tvmonitor</name><difficult>1</difficult><bndbox><xmax>3</xmax><xmin>1</xmin><ymin>1</ymin><ymax>375</ymax>
</bndbox></object></annotation>"""


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "VOC2007"
    for path, text in {"Annotations/000005.xml": VOC, "ImageSets/Main/test.txt": "000005\n"}.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_text(text)
    return folder


def convert(voc: Path) -> dict[str, Any]:
    return read(convert_voc(str(voc), "test", str(voc / "test.json"), "any").path)


def test_voc_counts_pixels_from_1_and_includes_the_last(voc: Path) -> None:
    chair, monitor = convert(voc)["annotations"]
    assert chair["bbox"] == [262, 210, 62, 129] and chair["area"] == 62 * 129
    assert monitor["bbox"] == [0, 0, 3, 375]


def test_difficult_objects_are_marked_and_not_loaded(voc: Path) -> None:
    content = convert(voc)
    marks = [(box["difficult"], box["ignore"], box["iscrowd"]) for box in content["annotations"]]
    assert marks == [(0, 0, 0), (1, 1, 0)]
    (record,) = load_coco_format(str(voc / "test.json"), str(voc), "voc")
    assert len(record["annotations"]) == 1
    assert record["file_name"] == f"{voc}/JPEGImages/000005.jpg" and (record["width"], record["height"]) == (500, 375)


def test_voc_has_its_20_classes_in_their_order_and_spelling(voc: Path) -> None:
    content = convert(voc)
    names = [category["name"] for category in content["categories"]]
    assert len(names) == 20 and names == sorted(names) and {"diningtable", "pottedplant", "tvmonitor"} <= set(names)
    assert [names[box["category_id"] - 1] for box in content["annotations"]] == ["chair", "tvmonitor"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</annotation>", "", r"000005.xml is no whole XML file"),
        ("tvmonitor", "telly", r'000005.xml: "telly" is no class of VOC'),
        ("<xmin>263</xmin>", "", r"000005.xml has no <bndbox/xmin>"),
    ],
)
def test_a_broken_voc_file_is_refused_by_name(old: str, new: str, message: str, voc: Path) -> None:
    (voc / "Annotations/000005.xml").write_text(VOC.replace(old, new))
    with pytest.raises(ValueError, match=message):
        convert(voc)
    assert not (voc / "test.json").exists()


def test_a_missing_voc_file_is_refused_by_name(voc: Path) -> None:
    (voc / "Annotations/000005.xml").unlink()
    with pytest.raises(FileNotFoundError, match="000005.xml"):
        convert(voc)
    with pytest.raises(FileNotFoundError, match="train.txt.*--source should be the folder VOC2007"):
        convert_voc(str(voc), "train", str(voc / "test.json"), "any")


# ---- Objects365 ----


@pytest.fixture
def objects365(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Converts a file of three images, of which two are there in the layout that is asked for."""
    names = [f"images/v1/patch{i}/objects365_v1_{i}.jpg" for i in (7, 8, 9)]
    images = [{"id": i, "file_name": name, "width": 9, "height": 8, "url": ""} for i, name in enumerate(names)]
    boxes = [
        {"id": i, "image_id": i, "category_id": 1 + i, "bbox": [0, 0, 2, i], "area": 2.0 * i, "iscrowd": 0, "isfake": 0}
        for i in range(3)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(("Campel", "Table Tennis ", "Person"), start=1)]
    source = write_json(tmp_path / "o365.json", {"images": images, "annotations": boxes, "categories": categories})

    def convert(layout: str) -> dict[str, Any]:
        for name in names[:2]:
            path = tmp_path / "val" / (name if layout == "listed" else name.removeprefix("images/v1/"))
            path.parent.mkdir(parents=True)
            path.touch()
        written = convert_objects365(source, str(tmp_path / "val"), str(tmp_path / "out.json"), "val", "any")
        assert "1 images are not in" in written.report()
        return read(written.path)

    return convert


@pytest.mark.parametrize(
    ("layout", "name"),
    [("listed", "images/v1/patch7/objects365_v1_7.jpg"), ("patches", "patch7/objects365_v1_7.jpg")],
)
def test_file_names_are_those_on_disk(layout: str, name: str, objects365: Callable[[str], dict[str, Any]]) -> None:
    content = objects365(layout)
    assert content["images"][0] == {"id": 0, "file_name": name, "width": 9, "height": 8}


def test_images_that_are_not_there_are_left_out_with_their_boxes(objects365: Callable[[str], dict[str, Any]]) -> None:
    content = objects365("patches")
    assert ids(content, "images") == [0, 1] and ids(content) == [0, 1]


def test_boxes_of_objects365_have_cocos_fields_and_one_without_area_is_marked(
    objects365: Callable[[str], dict[str, Any]]
) -> None:
    flat, box = objects365("patches")["annotations"]
    assert box == {"id": 1, "image_id": 1, "category_id": 2, "bbox": [0, 0, 2, 1], "area": 2.0, "iscrowd": 0}
    assert flat["ignore"] == 1


def test_names_of_objects365_are_mended(objects365: Callable[[str], dict[str, Any]]) -> None:
    assert [c["name"] for c in objects365("patches")["categories"]] == ["Camel", "Table Tennis", "Person"]
    assert not set(SPELLINGS) & set(SPELLINGS.values())
    assert readable_spelling("Formula 1 ") == "Formula 1"


def test_a_folder_without_any_of_the_images_is_refused(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "images/v1/patch8/a.jpg"}], "annotations": [], "categories": []}
    source = write_json(tmp_path / "o365.json", content)
    message = "None of the first 1 images .* neither images/v1/patch8/a.jpg nor patch8/a.jpg.*--images"
    with pytest.raises(FileNotFoundError, match=message):
        convert_objects365(source, str(tmp_path), str(tmp_path / "out.json"), "val", "any")


# ---- your own ----


@pytest.fixture
def mine(tmp_path: Path) -> str:
    """Ten images, each with a cat and a dog."""
    size = {"width": 9, "height": 9}
    images = [{"id": i, "file_name": f"{i}.jpg", **size, "neg_category_ids": [1, 2]} for i in range(10)]
    pairs = [(i, c) for i in range(10) for c in (1, 2)]
    boxes = [{"id": 2 * i + c, "image_id": i, "category_id": c, "bbox": [0, 0, 1, 1]} for i, c in pairs]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    return write_json(tmp_path / "mine.json", {"images": images, "annotations": boxes, "categories": categories})


def halves(mine: str, tmp_path: Path, **options: Any) -> list[dict[str, Any]]:
    return [read(written.path) for written in split_custom(mine, str(tmp_path / "parts"), **options)]


def test_every_image_goes_to_one_part_with_its_boxes(mine: str, tmp_path: Path) -> None:
    train, val = halves(mine, tmp_path, val_share=0.3)
    assert sorted(ids(train, "images") + ids(val, "images")) == list(range(10)) and len(val["images"]) == 3
    for part in (train, val):
        assert {box["image_id"] for box in part["annotations"]} == set(ids(part, "images"))
        assert len(part["annotations"]) == 2 * len(part["images"]) and len(part["categories"]) == 2


def test_training_hears_nothing_of_novel_boxes_and_validation_has_them(mine: str, tmp_path: Path) -> None:
    train, val = halves(mine, tmp_path, novel=["dog"])
    assert {box["category_id"] for box in train["annotations"]} == {1}
    assert {tuple(image["neg_category_ids"]) for image in train["images"]} == {(1,)}
    assert {box["category_id"] for box in val["annotations"]} == {1, 2}


def test_the_parts_are_drawn_from_the_seed(mine: str, tmp_path: Path) -> None:
    first, again, other = (halves(mine, tmp_path, val_share=0.5, seed=seed)[1] for seed in (0, 0, 1))
    assert first == again != other


def test_an_unknown_novel_name_and_an_empty_part_are_refused(mine: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--novel "dgo" is no category of .*mine.json; it has: cat, dog'):
        halves(mine, tmp_path, novel=["dgo"])
    for share in (0.0, 0.01, 1.0):
        with pytest.raises(ValueError, match="leaves one part empty"):
            halves(mine, tmp_path, val_share=share)
    assert not (tmp_path / "parts").exists()


# ---- numbers ----


def test_other_numbers_than_published_are_refused_with_all_of_them_and_the_way_out() -> None:
    counts: Any = {"images": 3, "annotations": 5, "categories": 2}
    published = Published({"images": 3, "annotations": 6}, "a paper")
    message = r"have 3 images, 5 annotations, 2 categories; expected are 3 images, 6 annotations \(a paper\)"
    with pytest.raises(ValueError, match=f"a.json would {message}.*not written.*--counts any"):
        Accept("a.json", published)(counts)
    Accept("a.json", published, "any")(counts)
    Accept("a.json", None)(counts)
    Accept("a.json", Published({"images": 3}, "a paper"))(counts)


def test_a_part_of_the_official_file_is_refused_and_nothing_is_written(coco: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 images, 2 annotations, 65 categories; expected are 107761 images"):
        split_coco(coco, coco, str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_the_published_numbers_of_the_specification() -> None:
    assert PUBLISHED["val"].numbers == {"images": 80000, "annotations": 1240587, "categories": 365}
