"""Sight: what was found in a picture of a visitor, to be shown with any threshold. N detections.

A picture is looked at in the size in which it is shown. So the masks of a large photo do not fill the memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from dk_detr.data.images import read_image
from dk_detr.detector import Detections, Detector
from dk_detr.detector.detections import encode_mask
from dk_detr.language import readable
from dk_detr.structures import Vocabulary
from dk_detr.visualization.pictures import best_of_each_box

LEAST_SCORE = 0.05  # what scores less is not kept; the slider begins here
SHOWN_SIDE = 1600  # pixels of the longer side; detectors see less


@dataclass(frozen=True)
class Sight:
    """A picture and what was found in it.

    Attributes:
        found: with scores of at least LEAST_SCORE, in pixels of the picture as it is shown, which it holds; without
            masks.
        masks: N of COCO's compressed RLE; None of a detector without masks.
        size: (H, W) of the file, turned as its EXIF says.
        file: its name, without folders.
    """

    found: Detections
    masks: tuple[dict[str, Any], ...] | None
    size: tuple[int, int]
    file: str
    _in_file: dict[int, dict[str, Any]] = field(default_factory=dict)  # row -> its mask in pixels of the file

    def above(self, threshold: float) -> Detections:
        """Those that score at least `threshold`, with their masks, as they are shown."""
        rows = self._rows(threshold)
        masks = None if self.masks is None else self._decoded(rows)
        return replace(self.found[rows], masks=masks)

    def draw(self, threshold: float) -> Image.Image:
        """The picture with those that score at least `threshold`."""
        return self.above(threshold).draw()

    def say(self, threshold: float) -> str:
        """In a sentence, what the picture shows."""
        scores = self.found.scores
        if not len(scores):
            return "None of the words was found in this picture."
        shown = self.found[scores >= threshold]
        if not len(shown):
            best = readable(self.found.names[int(scores.argmax())])
            return f"Nothing scores {threshold:.2f}; the best is {best} with {scores.max():.2f}: lower the threshold."
        drawn = shown[best_of_each_box(shown.boxes_xyxy_abs, shown.scores)]
        counts = Counter(map(readable, drawn.names)).most_common()
        words = [name if count == 1 else f"{count} × {name}" for name, count in counts]
        return f"Found {len(drawn)}: {', '.join(words)}."

    def records(self, threshold: float) -> list[dict[str, Any]]:
        """COCO's records of those that score at least `threshold` (see `Detections.to_coco`), in pixels of the file."""
        which = self._rows(threshold)
        shown = self.found[which]
        (height, width), (rows, columns) = self.size, shown.size
        scale = np.array([width / columns, height / rows] * 2, dtype=np.float32)
        in_file = replace(shown, boxes_xyxy_abs=shown.boxes_xyxy_abs * scale, size=self.size, masks=None)
        records = in_file.to_coco(self.file)
        for record, row in zip(records, () if self.masks is None else which.tolist()):
            record["segmentation"] = self._mask_in_file(row)
        return records

    def _rows(self, threshold: float) -> np.ndarray:
        return np.flatnonzero(self.found.scores >= threshold)

    def _mask_in_file(self, row: int) -> dict[str, Any]:
        """Made once: the threshold may be moved often."""
        if row not in self._in_file:
            (mask,), (height, width) = self._decoded(np.array([row])), self.size
            enlarged = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
            self._in_file[row] = encode_mask(np.asarray(enlarged))
        return self._in_file[row]

    def _decoded(self, rows: np.ndarray) -> np.ndarray:
        assert self.masks is not None
        masks = np.zeros((len(rows), *self.found.size), dtype=bool)
        for place, row in enumerate(rows):
            masks[place] = mask_util.decode(self.masks[row])
        return masks


def read_upload(path: str) -> np.ndarray:
    """(H, W, 3) RGB of a file. Raises UnreadableImage, which names it without its folder: visitors need not see."""
    try:
        return read_image(path)
    except ValueError as error:
        raise type(error)(str(error).replace(path, Path(path).name)) from error


def look(detector: Detector, rgb: np.ndarray, file: str, vocabulary: Vocabulary) -> Sight:
    """Detect these words in the image (H, W, 3) of a file."""
    found = detector.predict(to_show(rgb), LEAST_SCORE, classes=vocabulary)
    assert isinstance(found, Detections)
    masks = None if found.masks is None else tuple(map(encode_mask, found.masks))
    return Sight(replace(found, masks=None), masks, (rgb.shape[0], rgb.shape[1]), file)


def to_show(rgb: np.ndarray) -> np.ndarray:
    """Shrunk so that no side is longer than SHOWN_SIDE."""
    image = Image.fromarray(rgb)
    image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(image)
