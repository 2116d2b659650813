"""Regions: where the teacher looks, and what it says. B images, M candidates, N regions, E text width."""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dk_detr.distillation import SlotSelection, Teacher
from dk_detr.distillation.teachers import stored_candidates
from dk_detr.layers import to_cxcywh, to_xyxy
from dk_detr.structures import Candidates, Regions, Scene, Targets, record, timed


class Lesson:
    """Regions of a batch with what the teacher sees there.

    Attributes:
        boxes: of each image, in pixels of the network's input. embeddings: (N, E) unit rows, image by image.
    """

    def __init__(self, boxes: list[Boxes], embeddings: Tensor) -> None:
        self.boxes, self.embeddings = boxes, embeddings


class Lessons:
    """Chooses regions and asks the teacher: those stored in an embedding bank (the paper's offline proposals), or,
    where samples bring none, the best proposals of the moment.

    Args:
        teacher: answers. choice: of the candidates of an image.
    """

    def __init__(self, teacher: Teacher, choice: SlotSelection) -> None:
        self.teacher, self.choice = teacher, choice

    def __call__(
        self,
        images: ImageList,
        batched_inputs: Sequence[dict[str, Any]],
        proposals: list[Instances],
        objects: list[Instances],
    ) -> Lesson:
        """The lesson of a training step.

        Args:
            images: normalised and padded. batched_inputs: may have "regions", see dk_detr.data.
            proposals: of the first stage, the best first. objects: the ground truth.
        """
        sizes = images.image_sizes
        scene = Scene(images.tensor, sizes, stored_candidates(batched_inputs, images.tensor.device))
        seen = scene.stored or live_candidates(proposals)
        regions = self.choice(seen.boxes, seen.objectness, None, _targets(objects), sizes)
        record("kd_regions", len(regions))
        with timed("teacher"):
            return Lesson(_in_pixels(regions, sizes), self.teacher.ask(scene, regions)())


def live_candidates(proposals: list[Instances]) -> Candidates:
    """The proposals of the moment."""
    boxes = [_in_shares(one, one.proposal_boxes) for one in proposals]
    objectness = [one.objectness_logits for one in proposals]
    nothing = -float("inf")
    return Candidates(
        pad_sequence(boxes, batch_first=True), pad_sequence(objectness, batch_first=True, padding_value=nothing)
    )


def _targets(objects: list[Instances]) -> Targets:
    boxes = tuple(_in_shares(one, one.gt_boxes) for one in objects)
    return Targets(tuple(one.gt_classes for one in objects), boxes)


def _in_shares(instances: Instances, boxes: Boxes) -> Tensor:
    """Boxes as cxcywh in [0, 1] of their image."""
    height, width = instances.image_size
    return to_cxcywh(boxes.tensor / boxes.tensor.new_tensor([width, height, width, height]))


def _in_pixels(regions: Regions, sizes: list[tuple[int, int]]) -> list[Boxes]:
    """The regions of each image; they stand image by image."""
    boxes = []
    for number, (height, width) in enumerate(sizes):
        shares = to_xyxy(regions.boxes[regions.image == number])
        boxes.append(Boxes(shares * shares.new_tensor([width, height, width, height])))
    return boxes
