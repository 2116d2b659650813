"""What can be wrong with the mask of one annotation: a list of polygons, or run lengths."""

from collections.abc import Iterator
from math import isfinite
from reprlib import repr as shown
from typing import Any

import numpy as np

from dk_detr.annotations.defects import Kind


def segmentation_faults(segmentation: Any) -> Iterator[tuple[Kind, str]]:
    """Kind and message of each fault; none for an annotation without a mask (None, []).

    Args:
        segmentation: polygons [[x, y, x, y, ...], ...] in pixels, or run lengths {"counts", "size"}.
    """
    if isinstance(segmentation, list):
        for number, polygon in enumerate(segmentation, start=1):
            if not _is_sound(polygon):
                yield _polygon_fault(polygon, f"polygon {number} of {len(segmentation)}")
    elif isinstance(segmentation, dict):
        yield from _runs_faults(segmentation)
    elif segmentation is not None:
        yield Kind.MALFORMED_RECORD, f"its segmentation {shown(segmentation)} is neither polygons nor run lengths"


def outline_of(segmentation: Any) -> tuple[float, float]:
    """The lowest and the highest number of its polygons; zeros where it has none, or none that are sound."""
    try:
        return float(min(map(min, segmentation))), float(max(map(max, segmentation)))
    except (TypeError, ValueError, OverflowError):
        return 0.0, 0.0


def is_far(lowest: Any, highest: Any, width: Any, height: Any) -> Any:
    """Whether polygons with these numbers leave their image by more than its longer side: numbers, or arrays of them.
    To draw such a one takes `pycocotools` memory by its length, however small the image."""
    side = np.maximum(width, height)
    return (lowest < -side) | (highest > 2 * side)


def _runs_faults(runs: dict[str, Any]) -> Iterator[tuple[Kind, str]]:
    counts, size = runs.get("counts"), runs.get("size")
    if not {"counts", "size"} <= runs.keys():
        yield Kind.MALFORMED_RECORD, 'its segmentation is an object without "counts" and "size"'
    elif not (isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) for n in size)):
        yield Kind.MALFORMED_RECORD, f"its segmentation has the size {shown(size)}; wanted [height, width]"
    elif not isinstance(counts, str | list):
        yield Kind.MALFORMED_RECORD, f"its segmentation has the counts {shown(counts)}; wanted run lengths"


def _is_sound(polygon: Any) -> bool:
    try:
        # Adding up costs a fraction of asking each number; where it overflows, no number is one of pixels.
        return len(polygon) >= 6 and len(polygon) % 2 == 0 and isfinite(sum(polygon))
    except (TypeError, OverflowError):
        return False


def _polygon_fault(polygon: Any, which: str) -> tuple[Kind, str]:
    if not isinstance(polygon, list):
        return Kind.MALFORMED_RECORD, f"its {which} is {shown(polygon)}; wanted a list [x, y, x, y, ...]"
    strange = next((value for value in polygon if not isinstance(value, int | float)), None)
    if strange is not None:
        return Kind.MALFORMED_RECORD, f"its {which} has {shown(strange)} among the numbers"
    if len(polygon) < 6:
        return Kind.SHORT_POLYGON, f"its {which} has {len(polygon)} numbers, fewer than three points (x, y)"
    if len(polygon) % 2:
        return Kind.ODD_POLYGON, f"its {which} has {len(polygon)} numbers: a point lacks its x or its y"
    return Kind.NOT_FINITE, f"its {which} has numbers that are not finite"
