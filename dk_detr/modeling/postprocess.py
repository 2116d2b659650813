"""Postprocessing: from predictions to Detectron2's Instances. B images, Q queries, K classes."""

from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.layers import to_xyxy


def to_instances(scores: Tensor, boxes: Tensor, sizes: list[tuple[int, int]], num_detections: int) -> list[Instances]:
    """The best (query, class) pairs of each image; a query may be several classes, and there is no NMS.

    Args:
        scores: (B, Q, K) in [0, 1]; 0 says nothing. boxes: (B, Q, 4) cxcywh in [0, 1] of the image.
        sizes: (h, w) in which boxes are wanted. num_detections: pairs of each image, at most Q·K.

    Returns: Instances with pred_boxes xyxy in pixels, clipped; scores, descending; pred_classes; query.
    """
    num_classes = scores.shape[-1]
    best, index = scores.flatten(1).topk(min(num_detections, scores[0].numel()), dim=1)
    query, label = index // num_classes, index % num_classes
    xyxy = to_xyxy(boxes.float()).gather(1, query[..., None].expand(-1, -1, 4))
    results = []
    for i, (h, w) in enumerate(sizes):
        pixels = Boxes(xyxy[i] * xyxy.new_tensor([w, h, w, h]))
        pixels.clip((h, w))
        found = Instances((h, w), pred_boxes=pixels, scores=best[i], pred_classes=label[i], query=query[i])
        results.append(found[best[i] > 0])
    return results
