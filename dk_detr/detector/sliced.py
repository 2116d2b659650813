"""Small objects in large images: the detector looks at tiles, too."""

from typing import Any

import numpy as np

from dk_detr.detector.detections import Detections
from dk_detr.detector.detector import Detector
from dk_detr.utils.packages import optional_package

SLICE = 640  # pixels
OVERLAP = 0.2  # of a tile
SAME = 0.5  # IoU from which two detections of a word are the same object


def predict_sliced(detector: Detector, rgb: np.ndarray, threshold: float, side: int = SLICE) -> Detections:
    """What is found in the whole image and in overlapping tiles of it, by `supervision`'s InferenceSlicer. Of
    detections of one word that overlap the best is kept (NMS).

    An object that is larger than a tile is found in the whole image, and its parts perhaps in tiles as well: of these,
    NMS leaves those that overlap it by less than SAME.

    Args:
        rgb: (H, W, 3) uint8. side: of the square tiles, in pixels.

    Raises: ImportError without the package.
    """
    supervision = optional_package("supervision", "--slice needs")
    whole = detector.predict(rgb, threshold)
    assert isinstance(whole, Detections)  # of one image
    if max(rgb.shape[:2]) <= side:
        return whole

    def look(tile: np.ndarray) -> Any:
        return detector.predict(np.ascontiguousarray(tile), threshold).to_supervision()  # type: ignore[union-attr]

    slicer = supervision.InferenceSlicer(look, slice_wh=side, overlap_wh=round(OVERLAP * side), iou_threshold=SAME)
    together: Any = supervision.Detections.merge([whole.to_supervision(), slicer(rgb)]).with_nms(SAME)
    if len(together) == 0:
        return whole
    best_first = together[np.argsort(-together.confidence, kind="stable")]
    return Detections.of_supervision(best_first, whole)
