"""What a detector with masks does beside finding boxes: learn from the masks of matched objects, and draw detections.

B images, M objects, N pairs of a query and an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor

from dk_detr.criterion import MaskCriterion
from dk_detr.extensions import TrainingInputs, TrainingOutputs
from dk_detr.layers import aligned_upsample
from dk_detr.modeling import DynamicMasks
from dk_detr.modeling.masks import MaskFrame, frames_of
from dk_detr.modeling.masks.frame import FACTOR, soft_targets, valid_pixels
from dk_detr.structures import DETECTION, Memory, Trace


@dataclass(frozen=True)
class Masks:
    """Masks of a detector's queries, and their losses. It reads the trace that the decoder leaves.

    Attributes:
        head: from queries to logits on the memory's finest level. criterion: the losses.
    """

    head: DynamicMasks
    criterion: MaskCriterion

    def losses(self, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """Of the detection queries that are matched in any decoder layer.

        Raises: ValueError for an image whose objects have no masks.
        """
        assignment = outputs.assignment
        of_masks, (hidden_states, boxes) = self.head.read(inputs.memory), outputs.trace.of(DETECTION)
        chosen = assignment.layer, assignment.image, assignment.query
        if not len(assignment.image):
            nothing = (of_masks.tokens.sum() + self.head.weights(hidden_states).sum()) * 0
            return {f"loss_mask_{name}": nothing for name in self.criterion.weights}
        logits = self.head(hidden_states[chosen], boxes[chosen], assignment.image, of_masks)
        shape, canvas = of_masks.shapes[0], tuple(inputs.images.tensor.shape[-2:])
        wanted = [soft_targets(masks_of(given).to(logits.device), canvas, shape) for given in inputs.batched_inputs]
        first = torch.tensor([0, *map(len, wanted)], device=logits.device).cumsum(0)
        pixels = valid_pixels(of_masks)[assignment.image]
        target = torch.cat(wanted)[first[assignment.image] + assignment.target]
        return self.criterion(aligned_upsample(logits, FACTOR), target, pixels, inputs.num_objects)

    def draw(
        self,
        found: Sequence[Instances],
        trace: Trace,
        memory: Memory,
        sizes: Sequence[tuple[int, int]],
        padded_side: int,
    ) -> None:
        """Add `pred_masks`, (N, height, width) bool, to detections in the size that is asked for.

        Args:
            found: of each image, with `query`. sizes: (h, w) of the images as the network saw them.
            padded_side: of the square that they were padded to; 0 where no image saw padding.
        """
        of_masks = self.head.read(memory)
        hidden_states, boxes = (part[-1] for part in trace.of(DETECTION))
        frames = frames_of(of_masks, sizes, padded_side)
        for image, (instances, frame) in enumerate(zip(found, frames)):
            query, place = instances.query.unique(return_inverse=True)
            masks = self._drawn(image, hidden_states[image, query], boxes[image, query], of_masks, frame, instances)
            instances.pred_masks = masks[place]

    def _drawn(
        self, image: int, hidden_states: Tensor, boxes: Tensor, memory: Memory, frame: MaskFrame, instances: Instances
    ) -> Tensor:
        """Of some queries of an image, a few at once."""
        size = instances.image_size
        drawn = [torch.zeros(0, *size, dtype=torch.bool, device=boxes.device)]
        for rows, some in zip(*(part.split(frame.at_once(size)) for part in (hidden_states, boxes))):
            if len(rows):
                logits = self.head(rows, some, torch.full((len(rows),), image, device=rows.device), memory)
                drawn.append(frame.to_pixels(logits, size))
        return torch.cat(drawn)


def masks_of(given: dict[str, Any]) -> Tensor:
    """(M, h, w) bool of a training sample, in pixels of the network's input. Raises ValueError where it has none."""
    instances = given["instances"]
    height, width = instances.image_size
    if not len(instances):
        return torch.zeros(0, height, width, dtype=torch.bool)
    require_masks(instances, given.get("file_name", "?"))
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width)
    tensor: Tensor = masks.tensor
    return tensor


def require_masks(objects: Instances, file_name: str) -> None:
    """Raises ValueError for a training sample that has objects, but no masks."""
    if len(objects) and not objects.has("gt_masks"):
        raise ValueError(
            f'Image {file_name}: its objects have no masks, but MODEL.MASK_ON wants a "segmentation" of each in the '
            "annotation file. Set it to False to train boxes only."
        )
