"""From scores of regions to detections. R regions, K words."""

from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.modeling.postprocess import best_pairs_after_nms


def best_detections(
    boxes: Tensor, log_scores: Tensor, size: tuple[int, int], threshold: float, nms_iou: float, count: int
) -> Instances:
    """The best detections of an image after NMS within each word.

    Args:
        boxes: (R, 4) xyxy in pixels. log_scores: (R, K). size: (h, w) that boxes are clipped to.
        threshold: scores must be above it. nms_iou: of two boxes of a word that overlap more, the better stays.
        count: of the image, at most.

    Returns: Instances with pred_boxes, scores (descending), pred_classes; none of a region that is not finite.
    """
    finite = boxes.isfinite().all(1)
    inside = Boxes(boxes[finite])
    inside.clip(size)
    scores = log_scores[finite].float().exp()
    region, word, best = best_pairs_after_nms(scores, inside.tensor, count, nms_iou, threshold)
    return Instances(size, pred_boxes=inside[region], scores=best, pred_classes=word)
