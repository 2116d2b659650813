"""Tiles: what they add, where their boxes lie, and what of them is kept."""

import numpy as np
import pytest

from dk_detr.detector import Detections
from dk_detr.detector.sliced import predict_sliced

pytest.importorskip("supervision")


class FindsWhite:
    """A detector of white squares that are at least a tenth of the image wide; of parts it is less sure."""

    def predict(self, rgb: np.ndarray, threshold: float) -> Detections:
        """As `Detector.predict`."""
        height, width = rgb.shape[:2]
        rows, columns = np.nonzero(rgb[:, :, 0] > 200)
        box = [] if not len(rows) else [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
        boxes = [each for each in box if each[2] - each[0] >= 0.1 * width]
        number, score = len(boxes), 0.5 + len(rows) / 1000
        masks = np.repeat((rgb[None, :, :, 0] > 200), number, axis=0)
        return Detections(
            np.float32(boxes).reshape(-1, 4), np.full(number, score, np.float32), ("white",) * number,
            np.zeros(number, dtype=int), ("white",), np.ones(number, dtype=bool), (height, width), masks,
        )  # fmt: skip


def test_a_small_object_in_a_large_image_is_found_once_and_where_it_lies():
    rgb = np.zeros((300, 400, 3), np.uint8)
    rgb[155:175, 205:225] = 255  # where tiles overlap
    assert len(FindsWhite().predict(rgb, 0.5)) == 0
    found = predict_sliced(FindsWhite(), rgb, 0.5, side=100)
    assert found.boxes_xyxy_abs.tolist()[0] == [205, 155, 225, 175]
    assert found.names == ("white",) * len(found) and len(found) == 1 and found.novel.all()
    assert np.array_equal(found.masks[0], rgb[:, :, 0] > 200)
    assert found.size == (300, 400)


def test_what_the_whole_image_and_a_tile_both_show_is_one_detection():
    rgb = np.zeros((300, 400, 3), np.uint8)
    rgb[165:215, 165:215] = 255
    boxes = predict_sliced(FindsWhite(), rgb, 0.5, side=100).boxes_xyxy_abs.tolist()
    assert boxes[0] == [165, 165, 215, 215] and boxes.count(boxes[0]) == 1


def test_images_without_objects_and_images_no_larger_than_a_tile_are_as_without_tiles():
    assert len(predict_sliced(FindsWhite(), np.zeros((300, 400, 3), np.uint8), 0.5, side=100)) == 0
    rgb = np.zeros((100, 100, 3), np.uint8)
    rgb[:20, :20] = 255
    assert predict_sliced(FindsWhite(), rgb, 0.5, side=100).boxes_xyxy_abs.tolist() == [[0, 0, 20, 20]]
