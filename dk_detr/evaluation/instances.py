"""From Detectron2's Instances, on whatever device, to the small arrays that evaluators keep."""

from __future__ import annotations

import numpy as np
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor

from dk_detr.evaluation import geometry
from dk_detr.evaluation.results import ImageDetections


def detections_of(image_id: int, instances: Instances) -> ImageDetections:
    """Boxes, scores and classes; see `masks_of` for masks."""
    scores, classes = instances.scores.float(), instances.pred_classes
    return ImageDetections(image_id, _boxes(instances.pred_boxes), _array(scores), _array(classes))


def proposals_of(image_id: int, instances: Instances) -> ImageDetections:
    """Boxes without a class are detections of the first one: recall does not ask."""
    scores = _array(instances.objectness_logits.float())
    return ImageDetections(image_id, _boxes(instances.proposal_boxes), scores, np.zeros(len(scores), dtype=np.int64))


def masks_of(instances: Instances, height: int, width: int) -> np.ndarray:
    """(N,) run-length encodings of `pred_masks`: encoded at once, since bitmaps of a hundred images fill the memory.

    Raises: ValueError, an ending for "… has", for masks of another size.
    """
    masks = instances.pred_masks
    masks = masks.tensor if isinstance(masks, BitMasks) else masks
    return geometry.encode_predicted(_array(masks) if isinstance(masks, Tensor) else masks, height, width)


def _boxes(boxes: Boxes) -> np.ndarray:
    return _array(boxes.tensor.float())


def _array(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
