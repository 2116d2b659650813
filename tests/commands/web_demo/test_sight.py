"""What was found in a visitor's picture, shown with several thresholds; no browser, no Gradio."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from dk_detr.commands.web_demo.sight import LEAST_SCORE, SHOWN_SIDE, look, read_upload
from dk_detr.commands.web_demo.words import MOST_WORDS, OWN, TYPED, choices, vocabularies
from dk_detr.data.images import UnreadableImage
from dk_detr.detector import Detections
from dk_detr.structures import Vocabulary

WORDS = Vocabulary(("red_cup", "cat"), torch.eye(2), torch.tensor([False, True]))


class FindsTheLeftHalf:
    """Stands for a detector: a cup that fills the left half, with its mask, and a cat of the same box that scores less,
    and a cat in the right half that scores least."""

    def __init__(self, scores: tuple[float, ...] = (0.9, 0.6, 0.2), masks: bool = True) -> None:
        self.scores, self.masks, self.seen = np.array(scores, dtype=np.float32), masks, []

    def predict(self, rgb: np.ndarray, threshold: float, classes: Vocabulary) -> Detections:
        """Whatever the picture shows."""
        self.seen.append(rgb.shape)
        height, width = rgb.shape[:2]
        left, right = [0, 0, width / 2, height], [width / 2, 0, width, height]
        masks = np.zeros((3, height, width), dtype=bool)
        masks[:2, :, : width // 2] = masks[2, :, width // 2 :] = True
        found = Detections(
            np.array([left, left, right], dtype=np.float32), self.scores, ("red_cup", "cat", "cat"),
            np.array([0, 1, 1]), classes.names, np.array([False, True, True]), (height, width),
            masks if self.masks else None, pixels=rgb,
        )  # fmt: skip
        return found[self.scores >= threshold]


def sight_of(height: int, width: int, **of_detector: Any) -> tuple[Any, FindsTheLeftHalf]:
    detector = FindsTheLeftHalf(**of_detector)
    rgb = np.full((height, width, 3), 200, dtype=np.uint8)
    return look(detector, rgb, "photo.jpg", WORDS), detector  # type: ignore[arg-type]


def test_a_threshold_is_moved_without_the_detector() -> None:
    sight, detector = sight_of(40, 60)
    assert [len(sight.above(threshold)) for threshold in (0.05, 0.3, 0.7, 0.95)] == [3, 2, 1, 0]
    sight.draw(0.3), sight.records(0.3), sight.say(0.3)
    assert len(detector.seen) == 1


def test_the_picture_shows_the_masks_of_what_is_above_the_threshold() -> None:
    sight, _ = sight_of(480, 640)
    tinted = [np.asarray(sight.draw(threshold))[240, [160, 480]] for threshold in (0.95, 0.7, 0.1)]
    changed = [(pixels != 200).any(axis=1).tolist() for pixels in tinted]
    assert changed == [[False, False], [True, False], [True, True]]


def test_a_sentence_counts_what_is_drawn() -> None:
    sight, _ = sight_of(40, 60)
    assert sight.say(0.1) == "Found 2: red cup, cat."  # of two words for one box the best is drawn
    assert sight.say(0.7) == "Found 1: red cup."
    assert sight.say(0.95) == "Nothing scores 0.95; the best is red cup with 0.90: lower the threshold."
    apart = replace(sight.found, names=("cat",) * 3, boxes_xyxy_abs=np.eye(3, 4, dtype=np.float32))
    assert replace(sight, found=apart).say(0.1) == "Found 3: 3 × cat."
    nothing, _ = sight_of(40, 60, scores=(0.01, 0.01, 0.01))
    assert nothing.say(0.3) == "None of the words was found in this picture."
    assert nothing.records(LEAST_SCORE) == []


def test_a_large_picture_is_looked_at_smaller_and_its_records_are_in_pixels_of_the_file() -> None:
    sight, detector = sight_of(1200, 2 * SHOWN_SIDE)
    assert detector.seen == [(600, SHOWN_SIDE, 3)]
    cup, *_ = sight.records(0.3)
    assert cup["bbox"] == [0.0, 0.0, SHOWN_SIDE, 1200.0]
    mask = mask_util.decode(cup["segmentation"])
    assert mask.shape == (1200, 2 * SHOWN_SIDE)
    assert mask[:, :SHOWN_SIDE].all() and not mask[:, SHOWN_SIDE:].any()


def test_records_are_those_of_coco_with_names() -> None:
    sight, _ = sight_of(40, 60, masks=False)
    assert sight.records(0.5) == [
        {"image_id": "photo.jpg", "category_id": 1, "category_name": "red_cup", "bbox": [0, 0, 30, 40], "score": 0.9},
        {"image_id": "photo.jpg", "category_id": 2, "category_name": "cat", "bbox": [0, 0, 30, 40], "score": 0.6},
    ]


def test_what_is_no_image_is_named_without_the_folder_of_the_server(tmp_path: Path) -> None:
    file = tmp_path / "letter.png"
    file.write_text("Dear Sir or Madam,")
    with pytest.raises(UnreadableImage, match=r"^Image letter\.png cannot be read") as refused:
        read_upload(str(file))
    assert str(tmp_path) not in str(refused.value)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (60, 40)).save(tmp_path / "phone.jpg", exif=exif)
    assert read_upload(str(tmp_path / "phone.jpg")).shape == (60, 40, 3)


class KnowsWords:
    """Stands for a detector: any words are two numbers to it, and it counts how often it encodes some."""

    def __init__(self) -> None:
        self.classes, self.encoded = WORDS.names, []

    def vocabulary(self, words: Any) -> Vocabulary:
        """See `Detector`."""
        if words == self.classes:
            return WORDS
        self.encoded.append(words)
        names = tuple(words) if not isinstance(words, str) else ("of the list",)
        return Vocabulary(names, torch.eye(max(2, len(names)))[: len(names)], torch.zeros(len(names), dtype=torch.bool))


def test_words_are_encoded_once_and_lists_by_name() -> None:
    detector: Any = KnowsWords()
    vocabulary = vocabularies(detector)
    assert vocabulary(TYPED, "cat, \n paper cup,").names == ("cat", "paper cup")
    assert vocabulary(TYPED, "cat,paper cup").names == ("cat", "paper cup")
    assert vocabulary("lvis", "").names == ("of the list",)
    assert vocabulary(OWN, "") is WORDS
    assert detector.encoded == [("cat", "paper cup"), "lvis"]
    assert {TYPED, OWN, "lvis", "coco"} <= {choice for _, choice in choices(detector)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" , \n", "Type the words to look for"),
        ("cat, dog, cat", '"cat" is named more than once'),
        ("paper_cup, paper cup", "is named more than once"),
        ("cat, ...", '"..." is no word'),
        (",".join(map(str, range(MOST_WORDS + 1))), "are too many"),
    ],
)
def test_words_that_cannot_be_looked_for_get_a_sentence(text: str, message: str) -> None:
    detector: Any = KnowsWords()
    with pytest.raises(ValueError, match=message):
        vocabularies(detector)(TYPED, text)
    assert not detector.encoded
