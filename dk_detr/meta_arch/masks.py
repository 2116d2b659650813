"""What a detector with masks does beside finding boxes: learn from the masks of matched objects, and draw detections.

B images, M objects, N pairs of a query and an object.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from dk_detr.criterion import MaskCriterion
from dk_detr.extensions import TrainingInputs, TrainingOutputs
from dk_detr.layers import aligned_upsample
from dk_detr.modeling import DynamicMasks
from dk_detr.modeling.masks import frames_of
from dk_detr.modeling.masks.frame import FACTOR, pairs_at_once, soft_targets, valid_pixels
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

        Many pairs are drawn in portions, which backward draws again: memory does not grow with their number.

        Raises: ValueError for an image whose objects have no masks.
        """
        memory, pairs = self.head.read(inputs.memory), outputs.assignment
        hidden_states, boxes = outputs.trace.of(DETECTION)
        if not len(pairs.image):
            nothing = (memory.tokens.sum() + self.head.weights(hidden_states).sum()) * 0
            return {f"loss_mask_{name}": nothing for name in self.criterion.weights}
        wanted, target = self._wanted(inputs, memory)
        chosen = pairs.layer, pairs.image, pairs.query
        parts = (hidden_states[chosen], boxes[chosen], pairs.image, target[pairs.image] + pairs.target)
        pixels = valid_pixels(memory)

        def charged(rows: Tensor, some: Tensor, image: Tensor, thing: Tensor) -> dict[str, Tensor]:
            fine = aligned_upsample(self.head(rows, some, image, memory), FACTOR)
            return self.criterion(fine, wanted[thing], pixels[image], inputs.num_objects)

        portions = list(zip(*(part.split(pairs_at_once(memory)) for part in parts)))
        if len(portions) == 1:
            return charged(*portions[0])
        losses = [checkpoint(charged, *portion, use_reentrant=False) for portion in portions]
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

    @staticmethod
    def _wanted(inputs: TrainingInputs, memory: Memory) -> tuple[Tensor, Tensor]:
        """Soft masks of all objects of the batch, one after the other; and of each image the number of the first."""
        height, width = inputs.images.tensor.shape[-2:]
        masks = [
            soft_targets(masks_of(given).to(memory.tokens.device), (height, width), memory.shapes[0])
            for given in inputs.batched_inputs
        ]
        first = torch.tensor([0, *map(len, masks)], device=memory.tokens.device).cumsum(0)
        return torch.cat(masks), first

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
            masks = torch.zeros(len(instances), *instances.image_size, dtype=torch.bool, device=boxes.device)
            for rows in torch.arange(len(query), device=boxes.device).split(frame.at_once(instances.image_size)):
                if not len(rows):  # nothing was found
                    continue
                some, number = query[rows], torch.full_like(rows, image)
                logits = self.head(hidden_states[image, some], boxes[image, some], number, of_masks)
                of_these = (place >= rows[0]) & (place <= rows[-1])
                masks[of_these] = frame.to_pixels(logits, instances.image_size)[place[of_these] - rows[0]]
            instances.pred_masks = masks


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
