"""The check of a data set: whatever is wrong is found, said once, where it is; what is sound is left in peace."""

import copy
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dk_detr.data import datasets_root
from dk_detr.data.check import DatasetCheck, Defect, Kind, check_annotations
from tests.run_fixtures import REPOSITORY, with_urls, write_json

COCO128 = Path(datasets_root()) / "coco128"
if not COCO128.is_dir():
    COCO128 = REPOSITORY.parent / "shared" / "data" / "coco128"
WIDTH, HEIGHT = 64, 48
TRIANGLE = [1, 1, 20, 1, 10, 20]
NAMES = ("apple", "fishing_boat", "cat")
Content = dict[str, Any]


def sound_content() -> Content:
    """Three images, eight boxes of three categories, each of which lies on two images."""
    images = [
        {"id": number, "file_name": f"train/{name}", "width": WIDTH, "height": HEIGHT}
        for number, name in ((11, "a.png"), (12, "b.jpg"), (13, "c.png"))
    ]
    images[2] |= {"neg_category_ids": [3], "not_exhaustive_category_ids": [1]}
    pairs = ((11, 1), (11, 2), (11, 3), (12, 1), (12, 2), (12, 3), (13, 1), (13, 2))
    annotations = [
        {"id": 101 + place, "image_id": image, "category_id": category, "bbox": [2, 3, 30, 40], "area": 1200}
        for place, (image, category) in enumerate(pairs)
    ]
    annotations[1]["segmentation"] = [TRIANGLE, TRIANGLE]
    annotations[2] |= {"segmentation": {"counts": [3072], "size": [HEIGHT, WIDTH]}, "iscrowd": 1}
    annotations[3]["segmentation"] = []
    annotations[4]["bbox"] = [-0.9, 0, WIDTH + 1.8, HEIGHT]  # less than a pixel too far: rounding
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, start=1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the images, those that are wrong among them."""
    root = tmp_path_factory.mktemp("images")
    (root / "train").mkdir()
    picture = Image.effect_mandelbrot((WIDTH, HEIGHT), (-2, -1, 1, 1), 9).convert("RGB")
    for name in ("a.png", "b.jpg", "c.png"):
        picture.save(root / "train" / name)
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    picture.save(root / "train" / "turned.jpg", exif=turned)
    picture.save(root / "train" / "turned.png", exif=turned)
    exif_at_the_end(root / "train" / "turned.png", root / "train" / "turned_late.png")
    whole = (root / "train" / "b.jpg").read_bytes()
    (root / "train" / "cut.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    (root / "train" / "text.jpg").write_text("404 not found")
    (root / "train" / "empty.jpg").touch()
    return root


def exif_at_the_end(source: Path, target: Path) -> None:
    """A PNG may have its EXIF chunk (length, name, data, sum) behind the pixels."""
    data = source.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    behind = data.index(b"IEND") - 4
    target.write_bytes(data[:start] + data[end:behind] + data[start:end] + data[behind:])


@pytest.fixture
def check(tmp_path: Path, images: Path) -> Callable[..., list[Defect]]:
    """Checks a content against the images."""

    def run(content: Any, *arguments: Any, **more: Any) -> list[Defect]:
        return check_annotations(write_json(tmp_path / "file.json", content), str(images), *arguments, **more)

    return run


def show(defects: list[Defect]) -> str:
    return "\n".join(f"{defect.kind}: {defect}" for defect in defects)


# ---- what is sound ----


def test_a_sound_file_has_neither_defects_nor_notes(check: Callable[..., list[Defect]]) -> None:
    for content in (sound_content(), with_urls(sound_content())):
        defects = check(content, NAMES, decode=True)
        assert not defects, show(defects)


def test_whatever_comes_first_in_the_file_the_outcome_is_the_same(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    content["annotations"][2]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][3]["image_id"] = 99
    outcomes = [check({key: content[key] for key in order}) for order in (sorted(content), sorted(content)[::-1])]
    assert outcomes[0] == outcomes[1] and len(outcomes[0]) == 2


@pytest.mark.skipif(not COCO128.is_dir(), reason="there is no coco128 below DETECTRON2_DATASETS")
@pytest.mark.parametrize("name", ["instances_train2017", "lvis_v1_style_train2017"])
def test_coco128_has_no_defect_and_two_images_without_annotations(name: str) -> None:
    folder = COCO128 / "images" / "train2017"
    defects = check_annotations(str(COCO128 / "annotations" / f"{name}.json"), str(folder), decode=True)
    assert [defect for defect in defects if not defect.kind.is_note] == []
    assert [defect.image_id for defect in defects if defect.kind is Kind.EMPTY_IMAGE] == [250, 508]


# ---- every sort of defect, planted and found ----

Change = Callable[[Content], Any]


def of_image(**fields: Any) -> Change:
    """Gives the second image other fields."""
    return lambda content: content["images"][1].update(fields)


def of_annotation(**fields: Any) -> Change:
    """Gives the fourth annotation other fields."""
    return lambda content: content["annotations"][3].update(fields)


def of_category(**fields: Any) -> Change:
    """Gives the third category other fields."""
    return lambda content: content["categories"][2].update(fields)


def one_more(which: str, place: int, **fields: Any) -> Change:
    """Repeats a record with other fields."""
    return lambda content: content[which].append({**content[which][place], **fields})


def without(which: str, place: int, field: str) -> Change:
    """Takes a field from a record."""
    return lambda content: content[which][place].pop(field)


def also(*changes: Change) -> Change:
    """One change after the other."""
    return lambda content: [change(content) for change in changes]


def one_more_that_is(which: str, record: Any) -> Change:
    """A record more that is none."""
    return lambda content: content[which].append(record)


IMAGE = {"image_id": 12, "file_name": "train/b.jpg"}
BOX = {**IMAGE, "annotation_id": 104}
LAST_IMAGE = {"image_id": 13, "file_name": "train/c.png"}
NAN, INFINITE = float("nan"), float("inf")


def file_of_image(name: str) -> tuple[Change, dict[str, Any]]:
    """Gives the second image another file; the change, and where its defects are."""
    return of_image(file_name=name), {"image_id": 12, "file_name": name}


def in_last_image(**fields: Any) -> Change:
    """Gives the third image, which has LVIS's lists, other fields."""
    return lambda content: content["images"][2].update(fields)


def no_box_in_image_12(content: Content) -> None:
    """Takes its annotations away."""
    content["annotations"] = [box for box in content["annotations"] if box["image_id"] != 12]


def of_annotations_of_cat(**fields: Any) -> Change:
    """Gives all annotations of the third category other fields."""
    return lambda content: [box.update(fields) for box in content["annotations"] if box["category_id"] == 3]


cat_is_no_crowd = of_annotations_of_cat(iscrowd=0)
BAD = Kind.MALFORMED_RECORD


def plant(name: str, kind: Kind, change: Change, where: dict[str, Any], message: str) -> Any:
    """A defect: how to make it, and what must be said of it (`message` is a pattern)."""
    return pytest.param(kind, change, where, message, id=name)


IMAGE_FILES = [
    plant("no such file", Kind.MISSING_IMAGE, *file_of_image("train/z.jpg"), "train/z.jpg is not there"),
    plant("no image", Kind.UNREADABLE_IMAGE, *file_of_image("train/text.jpg"), "no image"),
    plant("empty", Kind.UNREADABLE_IMAGE, *file_of_image("train/empty.jpg"), "no image"),
    plant("a folder", Kind.UNREADABLE_IMAGE, *file_of_image("train"), "directory"),
    plant("a zero byte", Kind.UNREADABLE_IMAGE, *file_of_image("a\0b"), "null"),
    plant("width", Kind.SIZE_MISMATCH, of_image(width=70), IMAGE, "says 70 x 48 pixels, the file has 64 x 48$"),
    plant("height", Kind.SIZE_MISMATCH, of_image(height=60), IMAGE, "says 64 x 60 pixels, the file has 64 x 48$"),
    plant(
        "turned by EXIF", Kind.SIZE_MISMATCH, *file_of_image("train/turned.jpg"),
        "says 64 x 48 pixels, the file has 48 x 64, once it is turned by its EXIF orientation 6 .*swap",
    ),
    plant("turned PNG", Kind.SIZE_MISMATCH, *file_of_image("train/turned.png"), "orientation 6 .*swap"),
    plant(
        "turned and other", Kind.SIZE_MISMATCH, of_image(file_name="train/turned.jpg", width=100, height=90),
        {"image_id": 12, "file_name": "train/turned.jpg"}, "says 100 x 90 pixels, .* orientation 6$",
    ),
]  # fmt: skip

BOXES = [
    plant("left", Kind.BOX_OUT_OF_IMAGE, of_annotation(bbox=[-5.5, 3, 30, 40]), BOX, "5.5 pixels left of the image"),
    plant("above", Kind.BOX_OUT_OF_IMAGE, of_annotation(bbox=[2, -1.25, 30, 40]), BOX, "1.25 pixels above the image"),
    plant("right", Kind.BOX_OUT_OF_IMAGE, of_annotation(bbox=[50, 3, 30, 40]), BOX, "16 pixels right of the image"),
    plant("below", Kind.BOX_OUT_OF_IMAGE, of_annotation(bbox=[2, 100, 30, 40]), BOX, "92 pixels below the image"),
    plant(
        "everywhere", Kind.BOX_OUT_OF_IMAGE, of_annotation(bbox=[-2, -3, 70, 90]), BOX,
        "2 pixels left of and 3 pixels above and 4 pixels right of and 39 pixels below",
    ),
    plant("no width", Kind.BOX_WITHOUT_AREA, of_annotation(bbox=[2, 3, 0, 40]), BOX, "w 0, h 40. has no width"),
    plant("no height", Kind.BOX_WITHOUT_AREA, of_annotation(bbox=[2, 3, 30, -1]), BOX, "has no height"),
    plant("no width, far out", Kind.BOX_WITHOUT_AREA, of_annotation(bbox=[200, 3, 0, 40]), BOX, "has no width"),
    plant("nan", Kind.NOT_FINITE, of_annotation(bbox=[2, NAN, 30, 40]), BOX, "y nan"),
    plant("endless", Kind.NOT_FINITE, of_annotation(bbox=[2, 3, INFINITE, 40]), BOX, "w inf"),
    plant("endless area", Kind.NOT_FINITE, of_annotation(area=INFINITE), BOX, "area is inf"),
    plant("huge number", BAD, of_annotation(bbox=[2, 3, 1e9, 40]), BOX, "has a number of 1e\\+09 or more"),
    plant("area of 0", Kind.AREA_OF_NOTHING, of_annotation(area=0), BOX, "its area is 0, its box has one"),
    plant("area below 0", BAD, of_annotation(area=-1), BOX, "area is -1; wanted a number of pixels"),
    plant("to be ignored", Kind.IGNORED_BOX, of_annotation(bbox=[2, 3, 0, 40], ignore=1), BOX, 'no width, .* "ignore"'),
]  # fmt: skip

REFERENCES = [
    plant(
        "unknown image", Kind.UNKNOWN_IMAGE, of_annotation(image_id=99, bbox=[500, 500, 9, 9]),
        {"image_id": 99, "annotation_id": 104}, "image 99 is not in the file",
    ),
    plant(
        "unknown category", Kind.UNKNOWN_CATEGORY, of_annotation(category_id=99), {**BOX, "category_id": 99},
        "category 99 is not in the file",
    ),
    plant(
        "image id", Kind.DUPLICATE_IMAGE_ID, one_more("images", 1, file_name="train/turned.png", width=48, height=64),
        {"image_id": 12, "file_name": "train/turned.png"}, "already that of train/b.jpg",
    ),
    plant("annotation id", Kind.DUPLICATE_ANNOTATION_ID, one_more("annotations", 3), BOX, "already that of another"),
    plant(
        "category id", Kind.DUPLICATE_CATEGORY_ID, one_more("categories", 2, name="dog"), {"category_id": 3},
        '"dog" has the id of "cat"',
    ),
    plant(
        "category name", Kind.DUPLICATE_CATEGORY_NAME,
        also(one_more("categories", 2, id=4), one_more("annotations", 3, id=200, category_id=4)),
        {"category_id": 4}, '"cat" is already the name of category 3',
    ),
    plant(
        "words", Kind.SAME_WORDS, of_category(name="Fishing  boat"), {"category_id": 3},
        '"Fishing  boat" and "fishing_boat", category 2, are the same words',
    ),
    plant(
        "file name", Kind.DUPLICATE_FILE_NAME,
        also(one_more("images", 1, id=14), one_more("annotations", 3, id=200, image_id=14)),
        {"image_id": 14, "file_name": "train/b.jpg"}, "already that of image 12",
    ),
]  # fmt: skip

MASKS = [
    plant("2 points", Kind.SHORT_POLYGON, of_annotation(segmentation=[TRIANGLE, [1, 2, 3, 4]]), BOX, "2 of 2 has 4"),
    plant("no point", Kind.SHORT_POLYGON, of_annotation(segmentation=[[]]), BOX, "polygon 1 of 1 has 0 numbers"),
    plant("odd", Kind.ODD_POLYGON, of_annotation(segmentation=[[*TRIANGLE, 7]]), BOX, "polygon 1 of 1 has 7 numbers"),
    plant("nan", Kind.NOT_FINITE, of_annotation(segmentation=[[*TRIANGLE, NAN, 1]]), BOX, "polygon 1 of 1 has numbers"),
    plant("huge", Kind.NOT_FINITE, of_annotation(segmentation=[[*TRIANGLE, 10**400, 1]]), BOX, "1 of 1 has numbers"),
    plant("words", BAD, of_annotation(segmentation=[[*TRIANGLE, "x", 1]]), BOX, "1 of 1 has 'x'"),
    plant("flat", BAD, of_annotation(segmentation=[1]), BOX, r"is 1; wanted a list \[x, y"),
    plant("a word", BAD, of_annotation(segmentation="mask"), BOX, "neither polygons nor run lengths"),
    plant("no size", BAD, of_annotation(segmentation={"counts": [1]}), BOX, "without"),
    plant("size of words", BAD, of_annotation(segmentation={"counts": [1], "size": "2x2"}), BOX, "has the size '2x2'"),
    plant("no runs", BAD, of_annotation(segmentation={"counts": None, "size": [48, 64]}), BOX, "has the counts None"),
    plant("far", Kind.FAR_POLYGON, of_annotation(segmentation=[[*TRIANGLE, 3e8, 1]]), BOX, "reach from 1 to 300000000"),
]

LISTS = [
    plant(
        "unknown, absent", Kind.UNKNOWN_CATEGORY_IN_LIST, of_image(neg_category_ids=[99]),
        {**IMAGE, "category_id": 99}, "its neg_category_ids has category 99, which",
    ),
    plant(
        "unknown, partly boxed", Kind.UNKNOWN_CATEGORY_IN_LIST, of_image(not_exhaustive_category_ids=[1, 99]),
        {**IMAGE, "category_id": 99}, "its not_exhaustive_category_ids has category 99, which",
    ),
    plant(
        "absent, but boxed", Kind.CONTRADICTION, of_image(neg_category_ids=[2]), {**IMAGE, "category_id": 2},
        'no "fishing_boat", yet',
    ),
    plant(
        "absent and partly boxed", Kind.CONTRADICTION, in_last_image(not_exhaustive_category_ids=[3]),
        {**LAST_IMAGE, "category_id": 3}, 'both neg_category_ids and not_exhaustive_category_ids have "cat"',
    ),
    plant(
        "partly boxed, but no box", Kind.NOT_EXHAUSTIVE_WITHOUT_BOX,
        in_last_image(neg_category_ids=[], not_exhaustive_category_ids=[3]), {**LAST_IMAGE, "category_id": 3},
        'has "cat", of which it has no annotation',
    ),
]  # fmt: skip

WORDS = [
    plant("capital", Kind.UNKNOWN_NAME, of_category(name="Cat"), {"category_id": 3}, '"Cat"; .* "cat"$'),
    plant("misspelt", Kind.UNKNOWN_NAME, of_category(name="fihsing boat"), {"category_id": 3}, '"fishing_boat"$'),
    plant("like no other", Kind.UNKNOWN_NAME, of_category(name="xylophone"), {"category_id": 3}, "nor any that is"),
]

RECORDS = [
    plant("no box", BAD, without("annotations", 3, "bbox"), BOX, "bbox is missing"),
    plant("3 numbers", BAD, of_annotation(bbox=[1, 2, 3]), BOX, r"bbox is \[1, 2, 3\]; wanted four"),
    plant("box of words", BAD, of_annotation(bbox=[1, 2, 3, "4"]), BOX, "wanted four"),
    plant("huge box", BAD, of_annotation(bbox=[1, 2, 3, 10**400]), BOX, "wanted four"),
    plant("image id", BAD, of_annotation(image_id="12"), {"annotation_id": 104}, "image_id is '1"),
    plant("huge id", BAD, of_annotation(id=2**64), IMAGE, "number 4 of annotations: its id is 18"),
    plant("no id", BAD, without("annotations", 3, "id"), IMAGE, "number 4 of annotations: its id is mis"),
    plant("a list", BAD, one_more_that_is("annotations", [1]), {}, r"number 9 of.* is \[1\]"),
    plant("a word", BAD, one_more_that_is("images", "a"), {}, "number 4 of images: it is 'a'"),
    plant("null", BAD, one_more_that_is("categories", None), {}, "number 4 of.* is None"),
    plant("crowd of two", BAD, of_annotation(iscrowd=2), BOX, "iscrowd is 2"),
    plant("ignored perhaps", BAD, of_annotation(ignore="maybe"), BOX, "ignore is 'maybe'; wanted 0 or 1"),
    plant("difficult list", BAD, of_annotation(difficult=[0]), BOX, r"difficult is \[0\]; wanted 0 or 1"),
    plant("endless width", BAD, of_image(width=10**12), IMAGE, "width is 1000000000000; wanted a number of pixels"),
    plant("padded name", Kind.PADDED_NAME, of_category(name="cat "), {"category_id": 3}, "'cat ' has spaces around"),
    plant("area of words", BAD, of_annotation(area="large"), BOX, "area is 'large'"),
    plant("no width", BAD, without("images", 1, "width"), IMAGE, "width is missing"),
    plant("negative height", BAD, of_image(height=-48), IMAGE, "height is -48"),
    plant("no file name", BAD, without("images", 1, "file_name"), {"image_id": 12}, "file_name is mis"),
    plant("list of words", BAD, of_image(neg_category_ids=["cat"]), IMAGE, r"ids is \['cat'\]"),
    plant("no name", BAD, without("categories", 2, "name"), {"category_id": 3}, "name is missing"),
    plant("name of spaces", BAD, of_category(name="  "), {"category_id": 3}, "name is '  '"),
]

EMPTIES = [
    plant("image", Kind.EMPTY_IMAGE, also(no_box_in_image_12, cat_is_no_crowd), IMAGE, "no annotations"),
    plant(
        "crowds", Kind.UNTRAINED_CATEGORY, of_annotations_of_cat(iscrowd=1), {"category_id": 3},
        '"cat" has crowds .*none is trained on',
    ),
    plant("ignored", Kind.UNTRAINED_CATEGORY, of_annotations_of_cat(ignore="1"), {"category_id": 3}, "none is trained"),
    plant(
        "category", Kind.EMPTY_CATEGORY, one_more_that_is("categories", {"id": 4, "name": "dog"}), {"category_id": 4},
        '"dog" has no annotations',
    ),
]  # fmt: skip

PLANTS = IMAGE_FILES + BOXES + REFERENCES + MASKS + LISTS + WORDS + RECORDS + EMPTIES


@pytest.mark.parametrize(("kind", "change", "where", "message"), PLANTS)
def test_a_planted_defect_is_found_where_it_is_and_nothing_else(
    kind: Kind, change: Change, where: dict[str, Any], message: str, check: Callable[..., list[Defect]], tmp_path: Path
) -> None:
    content = sound_content()
    change(content)
    renamed = () if kind is Kind.UNKNOWN_NAME else ("Fishing  boat", "cat ")
    defects = check(content, (*NAMES, "dog", *renamed))
    assert len(defects) == 1, show(defects)
    assert defects[0] == Defect(kind, defects[0].message, str(tmp_path / "file.json"), **where)
    assert re.search(message, defects[0].message), show(defects)


def test_every_kind_of_defect_is_planted() -> None:
    assert {parameter.values[0] for parameter in PLANTS} == set(Kind)


def test_every_defect_of_a_file_is_reported_each_once(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    of_annotation(category_id=99, bbox=[2, 3, 0, 40])(content)
    content["annotations"][6] |= {"image_id": 77, "segmentation": [[1, 2], [3, 4, 5]]}
    of_image(width=70)(content)
    assert sorted((defect.kind, defect.annotation_id) for defect in check(content) if not defect.kind.is_note) == [
        (Kind.BOX_WITHOUT_AREA, 104), (Kind.SHORT_POLYGON, 107), (Kind.SHORT_POLYGON, 107),
        (Kind.SIZE_MISMATCH, None), (Kind.UNKNOWN_CATEGORY, 104), (Kind.UNKNOWN_IMAGE, 107),
    ]  # fmt: skip


def test_a_record_that_has_the_size_after_turning_is_sound(check: Callable[..., list[Defect]]) -> None:
    for name in ("train/turned.jpg", "train/turned.png", "train/turned_late.png"):
        content = sound_content()
        of_image(file_name=name, width=HEIGHT, height=WIDTH)(content)
        content["annotations"][4]["bbox"] = [0, 0, HEIGHT, WIDTH]
        assert not check(content), name


def test_a_file_that_is_cut_short_is_found_by_decoding_only(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    of_image(file_name="train/cut.jpg")(content)
    assert not check(content)
    (defect,) = check(content, decode=True)
    assert (defect.kind, defect.image_id) == (Kind.UNREADABLE_IMAGE, 12)
    assert "truncated" in defect.message


def test_a_turn_behind_the_pixels_of_a_png_is_found_by_decoding_only(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    of_image(file_name="train/turned_late.png")(content)
    assert not check(content)
    (defect,) = check(content, decode=True)
    assert defect.kind is Kind.SIZE_MISMATCH and "orientation 6" in defect.message


def test_the_tolerance_is_in_pixels(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    of_annotation(bbox=[-5, 3, 30, 40])(content)
    assert not check(content, tolerance=5.0)
    assert [defect.annotation_id for defect in check(content, tolerance=0.0)] == [104, 105]


def test_many_records_are_checked_piece_by_piece(
    check: Callable[..., list[Defect]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dk_detr.annotations.relations.ROWS_AT_ONCE", 3)
    content = sound_content()
    for place in (0, 2, 3, 7):
        content["annotations"][place]["bbox"] = [2, 3, 30, 0]
    assert [defect.annotation_id for defect in check(content)] == [101, 103, 104, 108]


def test_of_many_records_with_one_id_the_later_ones_are_blamed(check: Callable[..., list[Defect]]) -> None:
    content = sound_content()
    numbers = list(range(1000, 3000))
    for image in (11, 12):
        random.Random(image).shuffle(numbers)
        content["annotations"] += [{**content["annotations"][0], "id": n, "image_id": image} for n in numbers]
    defects = check(content)
    assert [defect.annotation_id for defect in defects] == numbers
    assert {(defect.kind, defect.image_id) for defect in defects} == {(Kind.DUPLICATE_ANNOTATION_ID, 12)}


def test_all_images_are_looked_at_by_however_many_workers(images: Path, tmp_path: Path) -> None:
    content = sound_content()
    content["images"] = [
        {"id": number, "file_name": f"train/{'cz'[number % 7 == 3]}.png", "width": WIDTH, "height": HEIGHT}
        for number in range(700)
    ]
    file = write_json(tmp_path / "file.json", content)
    for workers in (1, 5):
        defects = DatasetCheck(file, str(images), workers=workers)
        missing = [defect.image_id for defect in defects if defect.kind is Kind.MISSING_IMAGE]
        assert missing == list(range(3, 700, 7))
        assert defects.how_far == "all records were read, 700 of 700 images opened"


# ---- what cannot be checked at all ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no whole JSON file: it ends too early"),
        ("  \n ", "no whole JSON file: it ends too early"),
        ("[]", 'no whole JSON file: "{" expected, got "\\["'),
        ("no JSON", "no whole JSON file"),
        ('{"images": [{"id": 1}', "no whole JSON file"),
        ('{"images": [{"id": 1},], "annotations": [], "categories": []}', "no whole JSON file"),
        ('{"images": [{}], "annotations": [], "categories": []} {', "no whole JSON file: there is more after its end"),
        ("[" * 100_000, "no whole JSON file"),
        ('{"images": ' + "[" * 100_000, "no whole JSON file"),
        ('{"images": [' + "1" * 5000 + "]}", "no whole JSON file"),
        ("{}", "has no .'annotations', 'categories', 'images'.: it is not in LVIS or COCO format"),
        ('{"images": [], "annotations": []}', "has no .'categories'."),
        ('{"images": {}, "annotations": [], "categories": []}', 'its "images" is {}, no list'),
        ('{"images": [], "annotations": [], "categories": []}', "lists no images"),
    ],
)
def test_a_file_that_is_none_gives_one_clear_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(ValueError, match=f"{tmp_path}/file.json:? .*{message}"):
        check_annotations(str(tmp_path / "file.json"), str(tmp_path))


def test_bytes_that_are_no_text_give_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file.json").write_bytes(b'{"images": ["\xff\xfe"]}')
    with pytest.raises(ValueError, match="file.json is no whole JSON file"):
        check_annotations(str(tmp_path / "file.json"), str(tmp_path))


def test_a_missing_file_and_a_missing_folder_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no annotation file .*file.json"):
        check_annotations(str(tmp_path / "file.json"), str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no image folder .*pictures"):
        check_annotations(write_json(tmp_path / "file.json", sound_content()), str(tmp_path / "pictures"))


# ---- whatever comes ----

STRANGE = (
    None, True, 0, -1, 2**63, 10**400, 1.5, -0.0, NAN, INFINITE,
    "", "a", "\ud800", "a\0b", "\x1b[2J", "../..", "x" * 5000,
    [], [[]], [None], [1, 2, 3, 4], [[1, 2, 3, 4, 5, 6]], {}, {"id": 1}, {"counts": None, "size": None},
)  # fmt: skip


def corrupt(node: Any, dice: random.Random) -> Any:
    """The same with something strange in it, somewhere."""
    if not isinstance(node, dict | list) or not node or dice.random() < 0.1:
        return copy.deepcopy(dice.choice(STRANGE))
    key = dice.choice(list(node)) if isinstance(node, dict) else dice.randrange(len(node))
    node[key] = corrupt(node[key], dice)
    return node


def checks_or_refuses(text: bytes, folder: Path, images: Path) -> list[Defect]:
    (folder / "file.json").write_bytes(text)
    try:
        defects = list(DatasetCheck(str(folder / "file.json"), str(images), NAMES, workers=1))
    except ValueError as error:
        assert "file.json" in str(error)
        return []
    for defect in defects:
        json.dumps(defect.as_dict()).encode()
        assert str(defect).encode() and "\n" not in str(defect) and "\x1b" not in str(defect)
    return defects


@pytest.mark.parametrize("seed", range(4))
def test_strange_values_anywhere_never_break_the_check(seed: int, images: Path, tmp_path: Path) -> None:
    dice, found = random.Random(seed), 0
    for _ in range(80):
        content = sound_content()
        for _ in range(dice.randint(1, 6)):
            content = corrupt(content, dice)
        found += bool(checks_or_refuses(json.dumps(content).encode(), tmp_path, images))
    assert found > 20


@pytest.mark.parametrize("seed", range(4))
def test_bytes_that_change_never_break_the_check(seed: int, images: Path, tmp_path: Path) -> None:
    dice, whole = random.Random(seed), json.dumps(sound_content()).encode()
    for _ in range(80):
        text = bytearray(whole[: dice.choice((len(whole), dice.randrange(len(whole))))])
        for _ in range(dice.randint(0, 3)):
            text[dice.randrange(len(text))] = dice.choice(b'0123456789-.eE"{}[],: \xff\x00')
        checks_or_refuses(bytes(text), tmp_path, images)


def test_images_with_changed_bytes_never_break_the_check(images: Path, tmp_path: Path) -> None:
    dice, content = random.Random(0), sound_content()
    for number, name in enumerate(["a.png", "b.jpg", "turned.jpg", "turned.png"] * 30):
        data = bytearray((images / "train" / name).read_bytes())
        for _ in range(dice.randint(1, 20)):
            data[dice.randrange(len(data) if number % 2 else 100)] = dice.randrange(256)
        (tmp_path / f"{number}.jpg").write_bytes(data)
        content["images"].append({"id": 100 + number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT})
    for decode in (False, True):
        file = write_json(tmp_path / "file.json", content)
        kinds = {defect.kind for defect in check_annotations(file, str(tmp_path), decode=decode)}
        assert Kind.UNREADABLE_IMAGE in kinds
