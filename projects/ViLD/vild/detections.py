"""From scores of regions to detections. R regions, K words."""

from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor


def best_detections(
    boxes: Tensor, log_scores: Tensor, size: tuple[int, int], threshold: float, nms_iou: float, count: int
) -> Instances:
    """The best detections of an image after NMS within each word.

    All R·K pairs take part, and yet few are looked at: a pair can only fall to a better one, so where the best of them
    leave enough, the others need not be asked.

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
    num_words, scores, asked = scores.shape[1], scores.flatten(), 4 * count
    while True:
        best, pair = scores.topk(min(asked, len(scores)))
        best, pair = best[best > threshold], pair[best > threshold]
        region, word = pair // num_words, pair % num_words
        kept = batched_nms(inside.tensor[region], best, word, nms_iou)[:count]
        if len(kept) == count or len(best) < asked:
            found = {"pred_boxes": inside[region[kept]], "scores": best[kept], "pred_classes": word[kept]}
            return Instances(size, **found)
        asked *= 4
