"""Teaching: which regions of a batch the teacher looks at, and what it says. N regions, E text width."""

from collections.abc import Sequence
from typing import Any

from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dk_detr.distillation import SlotSelection, Teacher
from dk_detr.distillation.teachers import candidates_of, stored_candidates
from dk_detr.layers import to_absolute_xyxy, to_normalized_cxcywh
from dk_detr.structures import Regions, Targets, TeacherInput
from dk_detr.utils import record, timed


class TaughtRegions:
    """Regions of a batch with what the teacher sees there.

    Attributes:
        boxes: of each image, in pixels of the network's input. embeddings: (N, E) unit rows, image by image.
    """

    def __init__(self, boxes: list[Boxes], embeddings: Tensor) -> None:
        self.boxes, self.embeddings = boxes, embeddings


class Teaching:
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
    ) -> TaughtRegions:
        """The taught of a training step.

        Args:
            images: normalised and padded. batched_inputs: may have "regions", see dk_detr.data.
            proposals: of the first stage, the best first. objects: the ground truth.
        """
        sizes = images.image_sizes
        shown = TeacherInput(images.tensor, sizes, stored_candidates(batched_inputs, images.tensor.device))
        seen = shown.stored or candidates_of(proposals)
        regions = self.choice(seen.boxes, seen.objectness, None, _targets(objects), sizes)
        record("kd_regions", len(regions))
        with timed("teacher"):
            return TaughtRegions(_in_pixels(regions, sizes), self.teacher.ask(shown, regions)())


def _targets(objects: list[Instances]) -> Targets:
    boxes = tuple(to_normalized_cxcywh(one.gt_boxes.tensor, one.image_size) for one in objects)
    return Targets(tuple(one.gt_classes for one in objects), boxes)


def _in_pixels(regions: Regions, sizes: list[tuple[int, int]]) -> list[Boxes]:
    """The regions of each image; they stand image by image."""
    return [Boxes(to_absolute_xyxy(regions.boxes[regions.image == number], size)) for number, size in enumerate(sizes)]
