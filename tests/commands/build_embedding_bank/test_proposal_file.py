"""Files of proposals: a list of results in JSON, and Detectron2's pickles, of which nothing is run."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.structures import BoxMode

from dk_detr.commands.build_embedding_bank.proposal_file import ProposalFile
from dk_detr.data.bank import EmbeddingBank
from tests.commands.build_embedding_bank.building import BankWorld, contents
from tests.run_fixtures import NUM_IMAGES

RECORDS = [{"image_id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)]
ROWS = [
    {"image_id": 2, "bbox": [10, 20, 30, 40], "score": 0.5, "category_id": 1},
    {"image_id": 1, "bbox": [0, 0, 8, 9], "score": 0.25, "segmentation": {"size": [4, 4], "counts": "x"}},
    {"image_id": 2, "bbox": [1, 2, 3.5, 4], "score": 1},
]
PROPOSALS = {
    "ids": [1, "2", 3],
    "boxes": [np.array([[0, 0, 8, 9]]), np.array([[10, 20, 40, 60], [1, 2, 4.5, 6]]), np.zeros((0, 4))],
    "objectness_logits": [np.array([0.25]), np.array([0.5, 1]), np.zeros(0)],
}


def written(path: Path, content: Any) -> str:
    """The path, with the content in the format that its ending says."""
    path.write_bytes(pickle.dumps(content) if path.suffix == ".pkl" else json.dumps(content).encode())
    return str(path)


def boxes_of(file: ProposalFile, number: int) -> list[list[float]]:
    """Boxes with their scores behind."""
    boxes, scores = file({"image_id": number})
    return [[*box, score] for box, score in zip(boxes.tolist(), scores.tolist())]


@pytest.mark.parametrize("name, content", [("a.json", ROWS), ("a.pkl", PROPOSALS)])
def test_each_image_has_its_boxes(tmp_path: Path, name: str, content: Any) -> None:
    file = ProposalFile(written(tmp_path / name, content), RECORDS)
    assert boxes_of(file, 1) == [[0, 0, 8, 9, 0.25]]
    assert boxes_of(file, 2) == [[10, 20, 40, 60, 0.5], [1, 2, 4.5, 6, 1]]
    assert boxes_of(file, 3) == []


class ByName:
    """Pickled as some releases of Python 3.11 pickle a member of an enumeration."""

    def __init__(self, owner: Any, name: str) -> None:
        self.parts = owner, name

    def __reduce__(self) -> Any:
        return getattr, self.parts


@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, 1, ByName(BoxMode, "XYWH_ABS")], ids=["mode", "number", "name"])
def test_boxes_of_a_pickle_may_be_xywh_and_have_the_old_names(tmp_path: Path, mode: Any) -> None:
    old = {"indexes": [1], "boxes": [np.array([[10, 20, 30, 40]])], "scores": [np.array([2.0])]}
    file = ProposalFile(written(tmp_path / "a.pkl", {**old, "bbox_mode": mode}), RECORDS)
    assert boxes_of(file, 1) == [[10, 20, 40, 60, 2]]


def test_nothing_but_a_box_mode_is_looked_up_by_name(tmp_path: Path) -> None:
    for owner, name in ((BoxMode, "mro"), (np.ndarray, "tofile")):
        with pytest.raises(ValueError, match="a.pkl holds no proposals in Detectron2's format"):
            ProposalFile(written(tmp_path / "a.pkl", {**PROPOSALS, "bbox_mode": ByName(owner, name)}), RECORDS)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch sprung",)


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="a.pkl holds no proposals in Detectron2's format .*system is no array"):
        ProposalFile(written(tmp_path / "a.pkl", {**PROPOSALS, "more": Trap()}), RECORDS)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"boxes": [], "objectness_logits": []},
        {**PROPOSALS, "ids": [1, 2]},
        {**PROPOSALS, "objectness_logits": [np.zeros(2), np.zeros(2), np.zeros(0)]},
        {**PROPOSALS, "bbox_mode": 4},
        [1, 2],
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="a.pkl holds no proposals in Detectron2's format"):
        ProposalFile(written(tmp_path / "a.pkl", content), RECORDS)


def test_a_pickle_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(PROPOSALS)[:-20])
    with pytest.raises(ValueError, match="a.pkl holds no proposals"):
        ProposalFile(str(path), RECORDS)


@pytest.mark.parametrize(
    "row", [{"image_id": 1, "score": 1}, {"image_id": 1, "bbox": [1, 2], "score": 1}, {"image_id": "x"}]
)
def test_a_result_without_box_is_named(tmp_path: Path, row: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match='a.json, result 3: wanted numbers "image_id", "bbox"'):
        ProposalFile(written(tmp_path / "a.json", [*ROWS, row]), RECORDS)


@pytest.mark.parametrize("content", [{"annotations": ROWS}, [1, 2], [*ROWS, {"other": 1}]])
def test_json_of_something_else_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match="a.json is no list of"):
        ProposalFile(written(tmp_path / "a.json", content), RECORDS)


def test_json_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS)[:-10])
    with pytest.raises(ValueError, match="a.json is no whole JSON file"):
        ProposalFile(str(path), RECORDS)


@pytest.mark.parametrize("bbox, score", [([0, 0, float("nan"), 4], 1.0), ([0, 0, 4, 4], float("inf"))])
def test_a_box_that_is_not_finite_is_named_with_its_image(tmp_path: Path, bbox: list[float], score: float) -> None:
    file = ProposalFile(written(tmp_path / "a.json", [{"image_id": 3, "bbox": bbox, "score": score}]), RECORDS)
    with pytest.raises(ValueError, match="a.json, image 3: box .* is not finite"):
        file({"image_id": 3})


def test_proposals_of_other_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a.json has no proposals for any of the 1 images of DATASETS.TRAIN"):
        ProposalFile(written(tmp_path / "a.json", ROWS), [{"image_id": 9, "file_name": "9.jpg"}])


def test_images_without_proposals_are_counted_in_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ProposalFile(written(tmp_path / "a.json", ROWS), RECORDS)
    assert "has no proposals for 1 of 3 images, the first 3.jpg" in caplog.text


# ---- a bank of them ----


def rows_of_bank(bank: EmbeddingBank) -> list[dict[str, Any]]:
    """The regions of a bank as results."""
    rows = []
    for number in range(1, NUM_IMAGES + 1):
        regions = bank[number]
        for (x0, y0, x1, y1), score in zip(regions.boxes_xyxy_abs.tolist(), regions.objectness.tolist()):
            rows.append({"image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": score})
    return rows


def test_a_bank_of_a_file_needs_no_detector_and_equals_that_of_the_same_boxes(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path
) -> None:
    first = EmbeddingBank(whole_bank)
    path = written(tmp_path / "proposals.json", rows_of_bank(first))
    folder = bank_world.build(tmp_path / "bank", {"MODEL__WEIGHTS": "''"}, proposals=path)
    bank = EmbeddingBank(folder)
    assert bank.manifest.settings["proposals"]["file"]["name"] == "proposals.json"
    for number in range(1, NUM_IMAGES + 1):
        assert np.allclose(bank[number].boxes_xyxy_abs, first[number].boxes_xyxy_abs, atol=1e-4)
        assert np.allclose(bank[number].embeddings.float(), first[number].embeddings.float(), atol=2e-3)


def test_a_detector_of_a_closed_list_of_words_may_lend_its_config(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path
) -> None:
    """Its words have no embeddings that could be of another CLIP."""
    path = written(tmp_path / "proposals.json", rows_of_bank(EmbeddingBank(whole_bank))[:9])
    folder = bank_world.build(tmp_path / "bank", {"MODEL__DETR__CLASSIFIER__NAME": "Linear"}, proposals=path)
    assert EmbeddingBank(folder).manifest.information["prompt"] is None


def test_a_killed_bank_of_a_file_goes_on_with_that_file_only(
    bank_world: BankWorld, whole_bank: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_of_bank(EmbeddingBank(whole_bank))
    path, other = written(tmp_path / "a.json", rows), written(tmp_path / "b.json", rows[1:])
    whole = bank_world.build(tmp_path / "whole", proposals=path)
    folder = bank_world.build(tmp_path / "bank", proposals=path, shards="0:1")
    with pytest.raises(SystemExit):
        bank_world.build(folder, proposals=other)
    assert "proposals.file is a.json (sha256" in capsys.readouterr().err
    bank_world.build(folder, proposals=path)
    assert contents(folder) == contents(whole)
