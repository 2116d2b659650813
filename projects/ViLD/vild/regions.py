"""Regions: where the teacher looks, and what it says. B images, M candidates, N regions, E text width."""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dk_detr.distillation import SlotSelection, Teacher
from dk_detr.distillation.teachers import candidates_of, stored_candidates
from dk_detr.layers import to_pixels, to_shares
from dk_detr.structures import Regions, Scene, Targets
from dk_detr.utils import record, timed


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
        seen = scene.stored or candidates_of(proposals)
        regions = self.choice(seen.boxes, seen.objectness, None, _targets(objects), sizes)
        record("kd_regions", len(regions))
        with timed("teacher"):
            return Lesson(_in_pixels(regions, sizes), self.teacher.ask(scene, regions)())


def _targets(objects: list[Instances]) -> Targets:
    boxes = tuple(to_shares(one.gt_boxes.tensor, one.image_size) for one in objects)
    return Targets(tuple(one.gt_classes for one in objects), boxes)


def _in_pixels(regions: Regions, sizes: list[tuple[int, int]]) -> list[Boxes]:
    """The regions of each image; they stand image by image."""
    return [Boxes(to_pixels(regions.boxes[regions.image == number], size)) for number, size in enumerate(sizes)]
