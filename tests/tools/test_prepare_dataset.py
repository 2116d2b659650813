"""tools/prepare_dataset.py: splits that hide novel objects, written whole."""

import json
from pathlib import Path

import pytest

from dk_detr.data.prepare import drop_rare

CONTENT = {
    "images": [{"id": 1, "neg_category_ids": [2, 3]}, {"id": 2, "neg_category_ids": []}],
    "categories": [{"id": 1, "frequency": "f"}, {"id": 2, "frequency": "c"}, {"id": 3, "frequency": "r"}],
    "annotations": [{"id": 10, "image_id": 1, "category_id": 1}, {"id": 11, "image_id": 2, "category_id": 3}],
}


def test_rare_boxes_go_and_images_and_categories_stay(tmp_path: Path) -> None:
    source, target = tmp_path / "train.json", tmp_path / "norare.json"
    source.write_text(json.dumps(CONTENT))
    counts = drop_rare(str(source), str(target))
    written = json.loads(target.read_text())
    assert [annotation["id"] for annotation in written["annotations"]] == [10]
    assert [image["id"] for image in written["images"]] == [1, 2]
    assert written["images"][0]["neg_category_ids"] == [2]
    assert written["categories"] == CONTENT["categories"]
    assert counts == {"images": 2, "annotations before": 2, "annotations after": 1, "rare categories": 1}
    assert not list(tmp_path.glob("*.part"))


def test_what_is_no_lvis_file_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "coco.json"
    source.write_text(json.dumps({**CONTENT, "categories": [{"id": 1}]}))
    with pytest.raises(ValueError, match="no categories of frequency r"):
        drop_rare(str(source), str(tmp_path / "out.json"))
    with pytest.raises(FileNotFoundError, match="missing.json"):
        drop_rare(str(tmp_path / "missing.json"), str(tmp_path / "out.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]
