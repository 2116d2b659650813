"""Small objects in large images: the detector looks at tiles, too."""

from collections.abc import Sequence
from dataclasses import replace
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

    pieces: list[tuple[Any, np.ndarray]] = []  # of each detection its mask, or None, and its box where it was found

    def without_masks(found: Detections) -> Any:
        """For `supervision`, which would make each mask as large as the image."""
        given: Any = replace(found, masks=None).to_supervision()
        given.data["piece"] = np.arange(len(pieces), len(pieces) + len(found))
        pieces.extend(zip([None] * len(found) if found.masks is None else found.masks, found.boxes_xyxy_abs))
        return given

    def look(tile: np.ndarray) -> Any:
        return without_masks(detector.predict(np.ascontiguousarray(tile), threshold))  # type: ignore[arg-type]

    slicer = supervision.InferenceSlicer(look, slice_wh=side, overlap_wh=round(OVERLAP * side), iou_threshold=SAME)
    together: Any = supervision.Detections.merge([without_masks(whole), slicer(rgb)]).with_nms(SAME)
    if len(together) == 0:
        return whole
    best_first = together[np.argsort(-together.confidence, kind="stable")]
    found = Detections.of_supervision(best_first, replace(whole, masks=None))
    if whole.masks is None:
        return found
    kept = [pieces[piece] for piece in best_first.data["piece"]]
    return replace(found, masks=_in_the_image(kept, found.boxes_xyxy_abs, whole.size))


def _in_the_image(
    pieces: Sequence[tuple[np.ndarray, np.ndarray]], boxes: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(N, H, W) masks.

    Args:
        pieces: of each detection its mask in a tile, and its box there. boxes: (N, 4) the same boxes in the image.
    """
    masks = np.zeros((len(pieces), *size), dtype=bool)
    for whole, (mask, box), moved in zip(masks, pieces, boxes):
        x, y = np.rint(moved[:2] - box[:2]).astype(int)
        whole[y : y + mask.shape[0], x : x + mask.shape[1]] = mask
    return masks
