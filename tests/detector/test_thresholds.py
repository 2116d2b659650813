"""Thresholds: how they are given, and what they keep."""

import json

import numpy as np
import pytest

from dk_detr.detector import Detections
from dk_detr.detector.thresholds import Thresholds


def found(names: list[str], scores: list[float]) -> Detections:
    """Detections of the words cat and dog."""
    number, classes = len(names), ("cat", "dog")
    ids = np.array([classes.index(name) for name in names], dtype=int)
    boxes, novel = np.tile(np.float32([0, 0, 2, 2]), (number, 1)), np.zeros(number, dtype=bool)
    return Detections(boxes, np.float32(scores), tuple(names), ids, classes, novel, (4, 4))


def test_a_word_with_a_threshold_of_its_own_does_not_count_below_it():
    thresholds = Thresholds.parse(0.4, "dog=0.2")
    kept = thresholds.keep(found(["cat", "dog", "cat", "dog"], [0.39, 0.21, 0.4, 0.19]))
    assert kept.names == ("dog", "cat") and kept.scores.tolist() == pytest.approx([0.21, 0.4])
    assert thresholds.least == 0.2
    assert len(thresholds.keep(found([], []))) == 0


@pytest.mark.parametrize("text", ['cat=0.5,"salt, pepper=0.25"', "given.json"])
def test_text_and_file_say_the_same(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.json").write_text(json.dumps({"cat": 0.5, "salt, pepper": 0.25}))
    assert Thresholds.parse(0.3, text) == Thresholds(0.3, {"cat": 0.5, "salt, pepper": 0.25})


@pytest.mark.parametrize(
    ("default", "text", "message"),
    [
        (30, None, "all words is 30"),
        (0.3, "cat=2", 'of "cat" is 2'),
        (0.3, "cat=high", "is 'high'"),
        (0.3, "cat", "is 'cat'"),
        (0.3, "cat=0.1,cat=0.2", "a word two thresholds"),
        (0.3, "nowhere.json", "no file of thresholds"),
        (0.3, "cat=nan", "between 0 and 1"),
    ],
)
def test_what_is_no_threshold_is_refused(default, text, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        Thresholds.parse(default, text)


def test_a_threshold_of_a_word_that_is_not_looked_for_is_refused():
    with pytest.raises(ValueError, match='has "zebra"'):
        Thresholds.parse(0.3, "zebra=0.5").require_known(["cat"])
