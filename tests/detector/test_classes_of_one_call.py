"""Words for one call of `predict`: they do not stay, and threads with different words do not mix."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dk_detr
from dk_detr.detector import Detections, Detector


@pytest.fixture(scope="module")
def detector(tiny_files: Path) -> Detector:
    return dk_detr.load(tiny_files / "run" / "model_final.pth")


@pytest.fixture
def image(tiny_images: Path) -> Path:
    return tiny_images / "000001.jpg"


def found_in(detector: Detector, image: Path, classes: Any = None) -> Detections:
    found = detector.predict(image, threshold=0.0, classes=classes)
    assert isinstance(found, Detections)
    return found


def test_words_of_one_call_are_looked_for_and_do_not_stay(detector: Detector, image: Path) -> None:
    before, own = found_in(detector, image), detector.classes
    found = found_in(detector, image, ["cat"])
    assert (found.classes, set(found.names)) == (("cat",), {"cat"})
    assert found.novel.all(), "the cat had no box in training"
    assert detector.classes == own
    after = found_in(detector, image)
    assert after.names == before.names
    assert np.array_equal(after.scores, before.scores)


def test_a_vocabulary_may_be_encoded_once_for_many_calls(detector: Detector, image: Path) -> None:
    vocabulary = detector.vocabulary(["cat", "apple"])
    assert vocabulary.names == ("cat", "apple")
    assert found_in(detector, image, vocabulary).classes == ("cat", "apple")


def test_wrong_words_are_refused_before_an_image_is_read(detector: Detector) -> None:
    with pytest.raises(ValueError, match='"cat" is named more than once'):
        detector.predict("nowhere.jpg", classes=["cat", "cat"])


def test_the_own_words_come_back_after_an_error(
    detector: Detector, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    own = detector.classes
    monkeypatch.setattr(detector.predictor, "together", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        detector.predict(image, classes=["cat"])
    assert detector.classes == own


def test_threads_with_different_words_do_not_mix(
    detector: Detector, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [("cat",), ("apple", "cat"), ("fishing_boat",), None]
    alone = [found_in(detector, image, words) for words in asked]
    detect, inside = detector.predictor.together, threading.Semaphore(1)

    def slowly(*arguments: Any) -> Any:
        assert inside.acquire(blocking=False), "two threads detect at once"
        time.sleep(0.05)  # time for another thread to change the words
        try:
            return detect(*arguments)
        finally:
            inside.release()

    monkeypatch.setattr(detector.predictor, "together", slowly)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda words: found_in(detector, image, words), asked * 2))
    for found, expected in zip(together, alone * 2):
        assert found.classes == expected.classes
        assert found.names == expected.names
        assert np.array_equal(found.boxes_xyxy_abs, expected.boxes_xyxy_abs)
