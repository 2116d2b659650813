"""Every field of every record, in every wrong form: training, check, evaluation and preparation read the right value,
or say in one line which record of which file is wrong. None breaks, none is silent, and they agree."""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dk_detr.annotations import Kind
from dk_detr.data import load_coco_format
from dk_detr.data.check import check_annotations
from dk_detr.data.prepare import split_custom
from dk_detr.evaluation import evaluate_file
from tests.run_fixtures import write_json

Content = dict[str, Any]
BOXES = ([4, 4, 20, 20], [30, 30, 20, 20])
SOUND: Content = {
    "images": [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 64} for n in (1, 2)],
    "annotations": [
        {"id": n, "image_id": n, "category_id": n, "bbox": box, "area": 400, "iscrowd": 0, "segmentation": []}
        for n, box in enumerate(BOXES, start=1)
    ],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "jar"}],
}
RESULTS = [{"image_id": n, "category_id": n, "bbox": box, "score": 0.9} for n, box in enumerate(BOXES, start=1)]

ABSENT = object()
FORMS: dict[str, Any] = {
    "absent": ABSENT, "null": None, "empty text": "", "text": "some text", "digits": "1", "zero as text": "0",
    "number": 7, "fraction": 1.5, "whole fraction": 2.0, "negative": -1, "zero": 0, "true": True,
    "beyond int64": 2**63, "beyond doubles": 10**400, "nan": float("nan"), "endless": float("inf"),
    "empty list": [], "list of null": [None] * 4, "list of texts": ["1", "2", "3", "4"], "too short": [1, 2, 3],
    "too long": [1, 2, 3, 4, 5], "nested": [[1, 2], [3, 4]], "object": {"a": 1}, "huge list": [4, 4, 1e300, 20],
    "nan list": [4, float("nan"), 20, 20], "negative list": [4, 4, -20, -20], "far list": [[3e8, 1, 2, 2, 9, 9]],
}  # fmt: skip
FIELDS = [
    *(("images", field) for field in ("id", "file_name", "width", "height", "neg_category_ids")),
    *(("annotations", field) for field in ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "ignore")),
    *(("annotations", field) for field in ("difficult", "segmentation")),
    *(("categories", field) for field in ("id", "name")),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the two images."""
    folder = tmp_path_factory.mktemp("img")
    for number in (1, 2):
        Image.new("RGB", (64, 64)).save(folder / f"{number}.png")
    return folder


def outcome(run: Callable[[], Any]) -> Any:
    """What comes out, or the text of an error that a user is shown; any other error is a failure."""
    try:
        return run()
    except (ValueError, FileNotFoundError) as error:
        return str(error)


def trained_boxes(file: str, images: Path) -> list[Any]:
    records = load_coco_format(file, str(images), "b")
    found = ((record["image_id"], box) for record in records for box in record["annotations"])
    return [(image, box["bbox"], box["category_id"]) for image, box in found]


def ap50(file: str, results: str) -> float:
    return evaluate_file(file, results, "coco")["bbox"]["AP50"]


def split(file: str, folder: Path) -> int:
    """Annotations in both parts together."""
    written = split_custom(file, str(folder / "parts"), val_share=0.5)
    return sum(len(json.loads(Path(part.path).read_text())["annotations"]) for part in written)


def every_wrong_form() -> Iterator[Any]:
    for which, field in FIELDS:
        for name, form in FORMS.items():
            yield pytest.param(which, field, form, id=f"{which}-{field}-{name}")


@pytest.mark.parametrize(("which", "field", "form"), every_wrong_form())
def test_every_wrong_form_is_read_right_or_refused_by_name(
    which: str, field: str, form: Any, images: Path, tmp_path: Path
) -> None:
    content = copy.deepcopy(SOUND)
    if form is ABSENT:
        content[which][1].pop(field, None)
    else:
        content[which][1][field] = form
    agree(content, images, tmp_path, loses_a_box=field == "ignore" and form in (1, 1.0, True, "1"))


@pytest.mark.parametrize("which", ["images", "annotations", "categories"])
@pytest.mark.parametrize("record", [None, 3, "text", [], [1], {}], ids=str)
def test_what_is_no_record_is_refused_by_its_number(which: str, record: Any, images: Path, tmp_path: Path) -> None:
    content = copy.deepcopy(SOUND)
    content[which].append(record)
    for message in agree(content, images, tmp_path):
        assert f"number 3 of {which}" in str(message)


@pytest.mark.parametrize("which", ["images", "annotations", "categories"])
def test_a_record_that_stands_twice_is_refused_or_counted_twice(which: str, images: Path, tmp_path: Path) -> None:
    content = copy.deepcopy(SOUND)
    content[which].append(content[which][1])
    if which != "annotations":
        assert all(isinstance(result, str) for result in agree(content, images, tmp_path))
        return
    file, results = write_json(tmp_path / "b.json", content), write_json(tmp_path / "p.json", RESULTS)
    assert len(trained_boxes(file, images)) == split(file, tmp_path) == 3 and ap50(file, results) < 100
    assert [d.kind for d in check_annotations(file, str(images))] == [Kind.DUPLICATE_ANNOTATION_ID]


@pytest.mark.parametrize("which", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, 3, "text", {"id": 1}], ids=str)
def test_what_is_no_list_is_refused_by_its_key(which: str, value: Any, images: Path, tmp_path: Path) -> None:
    for message in agree({**SOUND, which: value}, images, tmp_path):
        assert f'its "{which}" is' in message


@pytest.mark.parametrize("text", ["", "[]", "3", "null", '{"images": [', "\ufeff", "[" * 100_000], ids=lambda t: t[:9])
def test_what_is_no_annotation_file_is_refused_by_its_path(text: str, images: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(text, encoding="utf-8")
    for message in outcomes(images, tmp_path):
        assert isinstance(message, str) and "b.json" in message


def test_a_byte_order_mark_changes_nothing(images: Path, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text(json.dumps(SOUND), encoding="utf-8-sig")
    boxes, score, kept, defects = outcomes(images, tmp_path)
    assert (len(boxes), score, kept, defects) == (2, pytest.approx(100), 2, [])


def outcomes(images: Path, folder: Path) -> list[Any]:
    """Of training, evaluation, preparation and check."""
    file, results = str(folder / "b.json"), write_json(folder / "p.json", RESULTS)
    return [
        outcome(lambda: trained_boxes(file, images)),
        outcome(lambda: ap50(file, results)),
        outcome(lambda: split(file, folder)),
        outcome(lambda: [d for d in check_annotations(file, str(images)) if not d.kind.is_note]),
    ]


def agree(content: Content, images: Path, folder: Path, loses_a_box: bool = False) -> list[Any]:
    """What the four make of it, where none of them says anything wrong: see the module."""
    write_json(folder / "b.json", content)
    boxes, score, kept, defects = results = outcomes(images, folder)
    for message in (result for result in results if isinstance(result, str)):
        assert "b.json" in message and "\n" not in message
        assert re.search(r'image \d|annotation \d|category \d|number 3? ?\d? ?of|number \d of|its "', message), message
    assert not (isinstance(kept, str) and isinstance(boxes, list)), "what is not prepared is not trained on, either"
    assert not (isinstance(score, str) and isinstance(boxes, list)), "what is not scored is not trained on, either"
    if isinstance(boxes, str):
        assert defects, "what is not trained on is a defect"  # or, as text, a file that cannot be checked
    else:
        assert len(boxes) == 2 - loses_a_box
        assert all(type(number) is int for image, _, label in boxes for number in (image, label))
    assert isinstance(score, str) or score == pytest.approx(100), score
    assert isinstance(kept, str) or kept == 2
    said = [defects] if isinstance(defects, str) else [str(defect) for defect in defects[:1]]
    return said + [r for r in results[:3] if isinstance(r, str)] if said else results
