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
    """Regions, words and scores of the best pairs, with Gaussian soft NMS within each word.

    Scores only fall, so that the best of all is the next in any case: no more steps than detections.

    Source: Bodla et al. (ICCV 2017).
    """
    overlaps = pairwise_iou(boxes, boxes)
    left = scores.masked_fill(scores <= threshold, 0.0)
    best_of_word, region_of_word = left.max(0) if len(left) else (scores.new_zeros(scores.shape[1]),) * 2
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    while len(found) < count:
        best, word = best_of_word.max(0)
        if best <= (PRUNED if found else max(threshold, 0.0)):
            break
        region = region_of_word[word].long().clone()  # of which more is written below
        found.append((region, word, best))
        falls = torch.exp(-overlaps[region].square() / SIGMA)
        falls[region] = 0.0
        left[:, word] = (lowered := left[:, word] * falls).masked_fill(lowered <= PRUNED, 0.0)
        best_of_word[word], region_of_word[word] = left[:, word].max(0)
    if not found:
        nothing = torch.zeros(0, dtype=torch.long, device=scores.device)
        return nothing, nothing, scores.new_zeros(0)
    regions, words, lowered = (torch.stack(column) for column in zip(*found))
    return regions, words, lowered
