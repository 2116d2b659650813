"""What `Detections` promises: names with every id, and the same for people, for supervision and for COCO's tools."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from dk_detr import Detections

CLASSES = ("cat", "red star", "dog")
BOXES = np.array([[1, 2, 11, 22], [5, 5, 30, 20], [0, 0, 8, 8]], np.float32)


@pytest.fixture
def detections() -> Detections:
    """A star, a cat and another star in an image of 32 × 40 pixels; stars are novel."""
    masks = np.zeros((3, 32, 40), bool)
    masks[0, 2:22, 1:11] = True
    return Detections(
        boxes_xyxy_abs=BOXES,
        scores=np.array([0.875, 0.5, 0.25], np.float32),
        names=("red star", "cat", "red star"),
        class_ids=np.array([1, 0, 1]),
        classes=CLASSES,
        novel=np.array([True, False, True]),
        size=(32, 40),
        masks=masks,
        pixels=np.full((32, 40, 3), 90, np.uint8),
    )


def test_it_says_what_it_is(detections: Detections) -> None:
    assert repr(detections) == "<3 detections in an image: red star 0.88, 0.25; cat 0.50>"
    assert repr(detections[detections.scores > 1]) == "<0 detections in an image>"


def test_some_of_them_keep_all_that_belongs_to_them(detections: Detections) -> None:
    stars = detections["red star"]
    assert stars.names == ("red star", "red star") and stars.scores.tolist() == [0.875, 0.25]
    assert np.array_equal(stars.boxes_xyxy_abs, BOXES[[0, 2]]) and stars.class_ids.tolist() == [1, 1]
    assert stars.masks is not None and stars.masks.shape == (2, 32, 40) and stars.classes == CLASSES
    assert detections[1].names == ("cat",) and detections[:2].names == ("red star", "cat")
    assert not len(detections["dog"])
    assert [one.names[0] for one in detections] == ["red star", "cat", "red star"]
    with pytest.raises(KeyError, match='"bird" was not asked for; the words were cat, red star, dog'):
        detections["bird"]


def test_cocos_records_have_names_beside_ids(detections: Detections) -> None:
    records = json.loads(json.dumps(detections.to_coco(image_id=7)))
    assert [(record["category_id"], record["category_name"]) for record in records] == [
        (2, "red star"), (1, "cat"), (2, "red star"),
    ]  # fmt: skip
    assert records[0]["bbox"] == [1, 2, 10, 20] and records[0]["score"] == 0.875 and records[0]["image_id"] == 7
    assert detections.masks is not None
    assert np.array_equal(mask_util.decode(records[0]["segmentation"]).astype(bool), detections.masks[0])
    assert {record["category_id"] for record in detections.to_coco(7, {"cat": 17, "red star": 400})} == {17, 400}
    with pytest.raises(KeyError, match='No category id is given for "red star"'):
        detections.to_coco(7, {"cat": 17})


def test_supervision_gets_names_too(detections: Detections) -> None:
    pytest.importorskip("supervision")
    theirs = detections.to_supervision()
    assert theirs.data["class_name"].tolist() == ["red star", "cat", "red star"]
    assert theirs.class_id.tolist() == [1, 0, 1] and np.array_equal(theirs.xyxy, BOXES)
    assert theirs.mask.shape == (3, 32, 40) and theirs.confidence.tolist() == [0.875, 0.5, 0.25]
    assert len(detections[detections.scores > 1].to_supervision()) == 0


def test_a_missing_supervision_is_named(detections: Detections, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="pip install supervision"):
        detections.to_supervision()


def test_it_draws_pixels_and_files(detections: Detections, tmp_path: Path) -> None:
    assert detections.pixels is not None
    Image.fromarray(detections.pixels).save(tmp_path / "a.png")
    of_file = dataclasses.replace(detections, pixels=None, file=str(tmp_path / "a.png"))
    picture = np.asarray(of_file.draw())
    assert picture.shape[1] >= 480 and np.array_equal(picture, np.asarray(detections.draw()))
    assert (picture != 90).any(axis=-1).sum() > 1000, "boxes, words and a mask"
    legend = picture.shape[0] - np.asarray(detections["cat"].draw()).shape[0]
    assert legend > 0, "the legend comes with novel words alone"
    assert detections._repr_png_().startswith(b"\x89PNG")
