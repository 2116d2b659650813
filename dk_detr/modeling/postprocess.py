"""Postprocessing: from predictions to Detectron2's Instances. B images, Q queries, K words, N detections."""

from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.layers import to_absolute_xyxy


def to_instances(
    scores: Tensor,
    boxes: Tensor,
    sizes: list[tuple[int, int]],
    num_detections: int,
    nms_iou: float | None = None,
) -> list[Instances]:
    """The best (query, word) pairs of each image; a query may be several words.

    Args:
        scores: (B, Q, K) in [0, 1]; 0 says nothing. boxes: (B, Q, 4) cxcywh in [0, 1] of the image.
        sizes: (h, w) in which boxes are wanted. num_detections: pairs of each image, at most Q·K.
        nms_iou: of two boxes of a word that overlap more, the better stays; None for no NMS.

    Returns: Instances with pred_boxes xyxy in pixels, clipped; scores, descending; pred_classes; query.
    """
    results = []
    for of_image, boxes_of_image, size in zip(scores, boxes, sizes):
        pixels = Boxes(to_absolute_xyxy(boxes_of_image.float(), size))
        pixels.clip(size)
        if nms_iou is None:
            query, word, best = best_pairs(of_image, num_detections)
        else:
            query, word, best = best_pairs_after_nms(of_image, pixels.tensor, num_detections, nms_iou)
        found = Instances(size, pred_boxes=pixels[query], scores=best, pred_classes=word, query=query)
        results.append(found[(best > 0).nonzero()[:, 0]])  # asked for once: a mask would be for each field
    return results


def best_pairs(scores: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, word and score (N) of the best of (Q, K) scores, descending, at most `count`."""
    best, pair = scores.flatten().topk(min(count, scores.numel()))
    return pair // scores.shape[1], pair % scores.shape[1], best


def best_pairs_after_nms(
    scores: Tensor, boxes_xyxy: Tensor, count: int, nms_iou: float, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The same after NMS within each word.

    All Q·K pairs take part, and yet few are looked at: a pair can only fall to a better one, so where the best of them
    leave enough, the others need not be asked.

    Args:
        scores: (Q, K). boxes_xyxy: (Q, 4). nms_iou: of two boxes of a word that overlap more, the better stays.
        threshold: scores must be above it.
    """
    asked = 4 * count
    while True:
        query, word, best = best_pairs(scores, asked)
        number = int((best > threshold).sum())
        query, word, best = query[:number], word[:number], best[:number]
        kept = batched_nms(boxes_xyxy[query], best, word, nms_iou)[:count]
        if len(kept) == count or number < asked:
            return query[kept], word[kept], best[kept]
        asked *= 4
