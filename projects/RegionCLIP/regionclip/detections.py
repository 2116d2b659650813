"""From scores of regions to detections. R regions, K words."""

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor

from dk_detr.modeling.postprocess import best_pairs_after_nms

SIGMA, PRUNED = 0.5, 1e-3  # of soft NMS, as in the release


def fused(scores: Tensor, objectness: Tensor | None, fusion: str) -> Tensor:
    """(R, K) scores with the objectness (R,) of a localizer, logits; 0 for regions that are left out.

    Args:
        fusion: see MODEL.REGIONCLIP.FUSION.
    """
    if objectness is None or fusion == "none":
        return scores
    if fusion == "sigmoid":
        return (scores * objectness.sigmoid()[:, None]).sqrt()
    return (scores * objectness.clamp(min=0)[:, None]).sqrt()


def best_detections(
    boxes: Tensor, scores: Tensor, size: tuple[int, int], threshold: float, nms_iou: float, count: int, nms: str
) -> Instances:
    """The best detections of an image.

    Args:
        boxes: (R, 4) xyxy in pixels. scores: (R, K). size: (h, w) that boxes are clipped to.
        threshold: scores must be above it. nms_iou: of hard NMS. count: at most. nms: "Hard" or "Soft".

    Returns: Instances with pred_boxes, scores (descending), pred_classes, region.
    """
    inside = Boxes(boxes.float())
    inside.clip(size)
    if nms == "Soft":
        region, word, best = _best_after_soft_nms(inside, scores.float(), threshold, count)
    else:
        region, word, best = best_pairs_after_nms(scores.float(), inside.tensor, count, nms_iou, threshold)
    return Instances(size, pred_boxes=inside[region], scores=best, pred_classes=word, region=region)


def _best_after_soft_nms(boxes: Boxes, scores: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Regions, words and scores of the best pairs."""
    found = []
    for word in (scores > threshold).any(0).nonzero().flatten():
        region = (scores[:, word] > threshold).nonzero().flatten()
        kept, lowered = soft_nms(boxes[region], scores[region, word])
        found.append((region[kept], word.expand(len(kept)), lowered))
    if not found:
        nothing = torch.zeros(0, dtype=torch.long, device=scores.device)
        return nothing, nothing, scores.new_zeros(0)
    region, word, lowered = (torch.cat(column) for column in zip(*found))
    best, order = lowered.topk(min(count, len(lowered)))
    return region[order], word[order], best


def soft_nms(boxes: Boxes, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian soft NMS of boxes of one word: which stay, the best first, and their lowered scores.

    Source: Bodla et al. (ICCV 2017).
    """
    overlaps, scores = pairwise_iou(boxes, boxes), scores.clone()
    left = torch.ones_like(scores, dtype=torch.bool)
    kept, lowered = [], []
    while bool(left.any()):
        best = scores.masked_fill(~left, -1).argmax()
        kept.append(best)
        lowered.append(scores[best])
        left[best] = False
        scores = torch.where(left, scores * torch.exp(-overlaps[best].square() / SIGMA), scores)
        left &= scores > PRUNED
    return torch.stack(kept), torch.stack(lowered)
