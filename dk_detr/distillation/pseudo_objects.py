"""Pseudo objects: what the teacher takes for an object and nobody labelled. N regions, K words."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.distillation.slots import overlap_with_objects
from dk_detr.structures import Regions, Targets


@dataclass(frozen=True)
class PseudoObjects:
    """Regions in which the teacher believes, and which cover no labelled object, are objects without a word.

    Attributes:
        belief: in one word of training at least, from which a region counts. New things resemble known ones.
        base_overlap_iou: with a labelled object, from which a region is that object.
    """

    belief: float
    base_overlap_iou: float = 0.5

    @torch.no_grad()
    def __call__(self, regions: Regions, believed: Tensor, targets: Targets) -> Targets:
        """Choose. believed: (N, K) in [0, 1]. Returns the objects of each image, of class 0."""
        objects = targets.padded[1][regions.image]
        new = overlap_with_objects(regions.boxes[:, None], objects)[:, 0] < self.base_overlap_iou
        chosen = new & (believed.amax(1) >= self.belief)
        images = range(len(targets.labels))
        boxes = [regions.boxes[chosen & (regions.image == image)] for image in images]
        return Targets(
            labels=tuple(labels.new_zeros(len(more)) for labels, more in zip(targets.labels, boxes)),
            boxes=tuple(more.to(given.dtype) for given, more in zip(targets.boxes, boxes)),
        )


def pseudo_objects_from_config(cfg: CfgNode) -> PseudoObjects | None:
    """Of MODEL.KD.PSEUDO_OBJECTS; None where it is. Raises ValueError for a belief that is none."""
    kd = cfg.MODEL.KD
    if kd.PSEUDO_OBJECTS is None:
        return None
    if not 0 < kd.PSEUDO_OBJECTS <= 1:
        raise ValueError(
            "MODEL.KD.PSEUDO_OBJECTS is a belief above 0 and at most 1, or None for no pseudo objects, got "
            f"{kd.PSEUDO_OBJECTS}."
        )
    return PseudoObjects(kd.PSEUDO_OBJECTS, kd.BASE_OVERLAP_IOU)
