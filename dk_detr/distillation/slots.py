"""Slots: which query slots of an image are distilled.

After matching, the unmatched queries of highest objectness may well see objects that have no name yet. B images,
Q queries (in the order of their objectness), N chosen slots.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from dk_detr.layers import iou, to_xyxy
from dk_detr.structures import Assignment, Regions, Targets

FILTERS = ("unmatched", "base_overlap", "duplicates")


@dataclass(frozen=True)
class SlotSelection:
    """How slots are chosen.

    Attributes:
        num_slots: at most so many an image.
        filters: what is left out: "unmatched" keeps slots that the last decoder layer did not match (the paper);
            "base_overlap" drops those whose box overlaps a labelled object; "duplicates" keeps the best of boxes that
            overlap one another, by NMS.
        base_overlap_iou, duplicates_iou: thresholds of the last two.
        min_side: boxes with a shorter side, in pixels of the network's input, show too little.
    """

    num_slots: int = 20
    filters: tuple[str, ...] = ("unmatched",)
    base_overlap_iou: float = 0.5
    duplicates_iou: float = 0.7
    min_side: float = 4.0

    def __post_init__(self) -> None:
        unknown = [name for name in self.filters if name not in FILTERS]
        if unknown:
            raise ValueError(f"MODEL.KD.SLOT_FILTERS knows {FILTERS}, not {unknown}.")
        if self.num_slots < 1:
            raise ValueError(f"MODEL.KD.NUM_SLOTS must be at least 1, got {self.num_slots}.")

    @torch.no_grad()
    def __call__(
        self,
        boxes: Tensor,
        objectness: Tensor,
        assignment: Assignment | None,
        targets: Targets,
        image_sizes: list[tuple[int, int]],
    ) -> Regions:
        """Choose.

        Args:
            boxes: (B, Q, 4) cxcywh in [0, 1], where the teacher will look. objectness: (B, Q) logits, -inf for
                queries that see nothing.
            assignment: of the last decoder layer; None before decoding. image_sizes: (h, w) without padding.
        """
        sizes = boxes.new_tensor([(w, h) for h, w in image_sizes])
        keep = (boxes[..., 2:] * sizes[:, None] >= self.min_side).all(-1) & objectness.isfinite()
        if assignment is not None and "unmatched" in self.filters:
            keep[assignment.image, assignment.query] = False
        if "base_overlap" in self.filters:
            keep &= overlap_with_objects(boxes, targets.padded[1]) < self.base_overlap_iou
        if "duplicates" in self.filters:
            keep &= self._best_of_duplicates(boxes, objectness, keep)
        keep &= keep.cumsum(1) <= self.num_slots
        image, query = keep.nonzero(as_tuple=True)
        return Regions(image, query, boxes[image, query])

    def _best_of_duplicates(self, boxes: Tensor, objectness: Tensor, candidate: Tensor) -> Tensor:
        image, query = candidate.nonzero(as_tuple=True)
        picked = batched_nms(
            to_xyxy(boxes[image, query]).float(), objectness[image, query].float(), image, self.duplicates_iou
        )
        keep = torch.zeros_like(candidate)
        keep[image[picked], query[picked]] = True
        return keep


def overlap_with_objects(boxes: Tensor, objects: Tensor) -> Tensor:
    """(B, Q) highest IoU of (B, Q, 4) boxes with (B, M, 4) objects of their image; a padded object has no area and
    overlaps nothing."""
    if objects.shape[1] == 0:
        return boxes.new_zeros(boxes.shape[:2])
    return iou(to_xyxy(boxes)[:, :, None], to_xyxy(objects.to(boxes.dtype))[:, None]).amax(-1)
