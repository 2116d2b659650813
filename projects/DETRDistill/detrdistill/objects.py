"""What the teacher takes for an object stays one for the student's first stage. B images, M queries."""

from dataclasses import replace

from detectron2.config import CfgNode
from torch import Tensor

from dk_detr.distillation.pseudo_objects import PseudoObjects
from dk_detr.distillation.slots import SlotSelection
from dk_detr.extensions import TrainingInputs
from dk_detr.structures import Targets
from projects.DETRDistill.detrdistill.step import TeacherOutputs


class TeachersObjects:
    """Objects without a word: boxes of the teacher's last layer, without duplicates, off labelled objects.

    Args:
        belief: probability of its first stage, in (0, 1], from which a box counts.
    """

    def __init__(self, belief: float) -> None:
        self.choose = PseudoObjects(belief)
        self.slots = SlotSelection(filters=("duplicates",), duplicates_iou=0.5, min_side=0.0)

    def __call__(self, teacher: TeacherOutputs, inputs: TrainingInputs) -> Targets:
        """The objects of each image, of class 0."""
        boxes, objectness = teacher.detections.boxes[-1], _objectness(teacher)
        slots = replace(self.slots, num_slots=objectness.shape[1])
        regions = slots(boxes, objectness, None, inputs.targets, inputs.images.image_sizes)
        believed = objectness.float().sigmoid()[regions.image, regions.query]
        return self.choose(regions, believed[:, None], inputs.targets)


def _objectness(teacher: TeacherOutputs) -> Tensor:
    """(B, M) logits."""
    assert teacher.objectness is not None  # see `objects_from_config`
    return teacher.objectness


def objects_from_config(kd: CfgNode, proposes: bool) -> TeachersObjects | None:
    """Of MODEL.DETRDISTILL.PSEUDO_OBJECTS; None where it is.

    Args:
        proposes: whether the teacher has a first stage.

    Raises: ValueError for what is no probability, and for a teacher without a first stage.
    """
    belief = kd.PSEUDO_OBJECTS
    if belief is None:
        return None
    if not 0 < belief <= 1:
        raise ValueError(f"MODEL.DETRDISTILL.PSEUDO_OBJECTS is above 0 and at most 1, or None for none, got {belief}.")
    if not proposes:
        raise ValueError(
            f"MODEL.DETRDISTILL.PSEUDO_OBJECTS {belief} asks the teacher's first stage what is an object, and its "
            "MODEL.DETR.QUERIES have none: set it to None."
        )
    return TeachersObjects(belief)
