"""Calibration: a sigmoid fitted to cosines, its file, and SKD with an offset. Values worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.distillation import semantic_kd_loss
from dk_detr.distillation.calibration import Cosines, fit, like_proposals
from dk_detr.distillation.calibration_file import calibration_from_config, read_calibration, warn_of_other_crops
from dk_detr.distillation.from_config import term_settings
from dk_detr.engine import setup_cfg
from dk_detr.layers import iou, to_xyxy
from dk_detr.structures import Calibration
from tests.model_fixtures import random, tiny_vocabulary
from tests.run_fixtures import MINI, write_json

OWN = torch.linspace(0.90, 1.00, 11)  # the median is 0.95
WRONG = torch.linspace(0.76, 0.86, 11)  # the median is 0.81


def content(**more: Any) -> dict[str, Any]:
    """Of a sound file."""
    teacher = {"probe": "[0.6, 0.8]", "width": 16, "crop_scales": [1.0, 1.5]}
    sigmoids = {"classifier": {"temperature": 0.06, "offset": 0.9}, "semantic": {"temperature": 0.1, "offset": 0.8}}
    return {"format": "dk_detr calibration", "version": 1, "teacher": teacher, **sigmoids, **more}


def config(folder: Path, *opts: str, **more: Any) -> CfgNode:
    path = write_json(folder / "calibration.json", content(**more))
    return setup_cfg(MINI, ["MODEL.CALIBRATION", path, *opts])


# ---- the fit ----


def test_the_median_own_cosine_gets_four_fifths_and_the_median_wrong_one_a_fifth() -> None:
    found = fit(OWN, WRONG)
    assert found.offset == pytest.approx(0.88) and found.temperature == pytest.approx(0.07 / math.log(4))
    chances = found.logits(torch.tensor([0.95, 0.88, 0.81], dtype=torch.float64)).sigmoid()
    torch.testing.assert_close(chances, torch.tensor([0.8, 0.5, 0.2], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("own", "wrong", "message"),
    [
        (OWN[:9], WRONG[:9], "The sigmoid cannot be calibrated: 9 samples are too few, it takes 10"),
        (WRONG, OWN, r"\(0.810 in the median of 11 samples\) is not above that with close wrong ones \(0.950\)"),
        (OWN, OWN, "is not above"),
        (OWN * math.nan, WRONG, "are no numbers"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(own: Tensor, wrong: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(own, wrong)


@pytest.mark.parametrize("numbers", [(0.0, 0.5), (-1.0, 0.5), (math.nan, 0.5), (math.inf, 0.5), (0.1, math.nan)])
def test_a_sigmoid_of_other_numbers_is_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="a temperature above 0"):
        Calibration(*numbers)


def test_own_and_nearest_wrong_are_read_off_the_pairs() -> None:
    pairs = torch.tensor([[0.9, 0.2, 0.7], [0.8, 0.1, 0.3]])
    found = Cosines.of(pairs, torch.tensor([0, 2]))
    for values, wanted in (
        (found.own, [0.9, 0.3]),
        (found.nearest_wrong, [0.7, 0.8]),
        (found.wrong, [0.2, 0.7, 0.8, 0.1]),
    ):
        torch.testing.assert_close(values, torch.tensor(wanted))
    both = Cosines.joined([found, found])
    assert len(both.own) == len(both.nearest_wrong) == 4 and len(both.wrong) == 8
    assert len(Cosines.joined([]).own) == 0


@pytest.mark.parametrize(("words", "place"), [(2, 1), (36, 1), (101, 3), (866, 26)])
def test_among_many_words_those_that_are_most_alike_are_too_alike_to_be_wrong(words: int, place: int) -> None:
    """A share of 3 %, and at least the nearest."""
    pairs = torch.rand(5, words, generator=torch.Generator().manual_seed(0))
    found = Cosines.of(pairs, torch.zeros(5, dtype=torch.long))
    ranked = pairs[:, 1:].sort(1, descending=True).values
    assert torch.equal(found.nearest_wrong, ranked[:, 0]) and torch.equal(found.close_wrong, ranked[:, place - 1])


def test_a_teacher_that_confuses_synonyms_more_often_than_not_can_be_calibrated() -> None:
    pairs = 0.15 + 0.05 * torch.rand(40, 866, generator=torch.Generator().manual_seed(0))
    pairs[:, 0], pairs[:, 1] = 0.28, 0.285
    found = Cosines.of(pairs, torch.zeros(40, dtype=torch.long))
    assert (found.nearest_wrong > found.own).all()
    fitted = fit(found.own, found.close_wrong)
    assert 0.2 < fitted.offset < 0.28 and 0.02 < fitted.temperature < 0.04


def test_boxes_are_moved_as_proposals_are() -> None:
    boxes = torch.rand(2000, 4, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.2
    moved = like_proposals(boxes, torch.Generator().manual_seed(0))
    overlap = iou(to_xyxy(boxes), to_xyxy(moved))
    assert overlap.mean() == pytest.approx(0.79, abs=0.02) and overlap.min() > 0.6 and overlap.max() < 1
    assert torch.equal(moved, like_proposals(boxes, torch.Generator().manual_seed(0)))


# ---- the term ----


def test_an_offset_shifts_every_cosine() -> None:
    student = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    cosines = ((1.0, True), (0.6, False), (0.6, False), (1.0, True))  # student and teacher are the same two rows
    chances = [1 / (1 + math.exp(-(cosine - 0.8) / 0.1)) for cosine, _ in cosines]
    wanted = -sum(math.log(p if own else 1 - p) for p, (_, own) in zip(chances, cosines)) / 2
    assert semantic_kd_loss(student, student, 0.1, offset=0.8).item() == pytest.approx(wanted, rel=1e-5)


def test_an_offset_of_zero_is_bit_for_bit_the_papers() -> None:
    student, teacher = random(6, 8, seed=1).requires_grad_(), random(6, 8, seed=2)
    ours, theirs = (torch.nn.functional.normalize(rows, dim=1) for rows in (student, teacher))
    logits = ours @ theirs.T / 0.05
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.eye(6), reduction="none")
    (wanted,) = torch.autograd.grad(paper := (losses.sum(1) * torch.full((6,), 1 / 6)).sum(), student)
    loss = semantic_kd_loss(student, teacher)
    assert torch.equal(loss, paper) and torch.equal(torch.autograd.grad(loss, student)[0], wanted)


# ---- the file ----


def test_numbers_of_the_term_are_those_of_the_file_or_of_the_config(tmp_path: Path) -> None:
    for cfg, wanted in (
        (setup_cfg(MINI), (0.05, 0.0)),
        (setup_cfg(MINI, ["MODEL.KD.SEMANTIC.TEMPERATURE", "0.2", "MODEL.KD.SEMANTIC.OFFSET", "0.5"]), (0.2, 0.5)),
        (config(tmp_path), (0.1, 0.8)),
    ):
        settings = term_settings(cfg)
        assert (settings.semantic_temperature, settings.semantic_offset) == wanted


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.DETR.CLASSIFIER.TEMPERATURE", "0.1"),
        ("MODEL.DETR.CLASSIFIER.LOGIT_BIAS", "-4.0"),
        ("MODEL.KD.SEMANTIC.TEMPERATURE", "0.1"),
        ("MODEL.KD.SEMANTIC.OFFSET", "0.8"),
    ],
)
def test_the_same_numbers_in_two_places_are_refused_naming_both(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"{key} is {value}, but MODEL.CALIBRATION .* gives temperature and offset"):
        calibration_from_config(config(tmp_path, key, value))


def test_a_calibration_is_for_no_other_classifier(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is for the sigmoid of .* "CosineText", not for "Linear"'):
        calibration_from_config(config(tmp_path, "MODEL.DETR.CLASSIFIER.NAME", "Linear"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no whole JSON file"),
        ("[]", "is no calibration: make one by tools/calibrate.py"),
        (json.dumps({"format": "embedding bank"}), "is no calibration"),
        (json.dumps(content(version=2)), "of version 2, wanted 1"),
        (json.dumps(content(semantic={"temperature": 1.0})), "damaged calibration .there is no 'offset'"),
        (json.dumps(content(classifier={"temperature": math.nan, "offset": 0.9})), "damaged .*temperature above 0"),
        (json.dumps(content(classifier={"temperature": 0.1, "offset": math.inf})), "damaged .*finite offset"),
        (json.dumps(content(classifier={"temperature": "0.1", "offset": 0.9})), "damaged"),
        (json.dumps(content(teacher=None)), "damaged"),
        (json.dumps(content(teacher={"probe": "[NaN]", "width": 1, "crop_scales": [1]})), "damaged .*probe"),
    ],
)
def test_what_is_no_calibration_is_refused_by_its_name(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"a\.json.*{message}"):
        read_calibration(str(tmp_path / "a.json"))
    with pytest.raises(FileNotFoundError, match=r"There is no calibration \(MODEL.CALIBRATION\) gone.json"):
        read_calibration("gone.json")


def test_a_file_of_another_teacher_is_refused(tmp_path: Path) -> None:
    stored = calibration_from_config(config(tmp_path))
    assert stored is not None
    words = tiny_vocabulary()
    stored.require_teacher_of(words)  # nothing is known of where these words are from
    words.provenance["probe"] = "[0.6, 0.8]"
    stored.require_teacher_of(words)
    words.provenance["probe"] = "[0.8, 0.6]"
    with pytest.raises(ValueError, match=r"calibration.json \(MODEL.CALIBRATION\) come from different CLIPs"):
        stored.require_teacher_of(words)
    narrow = calibration_from_config(config(tmp_path, teacher={"probe": "", "width": 8, "crop_scales": [1.0]}))
    assert narrow is not None
    with pytest.raises(ValueError, match="has width 16, and the calibration .* is of a CLIP of width 8"):
        narrow.require_teacher_of(words)


def test_crops_at_other_scales_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for scales, warned in (("[1.0, 1.5]", False), ("[1.0]", True)):
        cfg = config(tmp_path, "MODEL.TEACHER.CROP_SCALES", scales)
        stored = calibration_from_config(cfg)
        assert stored is not None
        warn_of_other_crops(stored, cfg)
        assert ("was fitted to CLIPCrops at scales [1.0, 1.5]" in caplog.text) is warned
