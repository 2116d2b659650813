"""Which decoder layers of the teacher a layer of the student learns from. P pairs of layers, B images, Q queries."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from dk_detr.layers.cached import cached
from dk_detr.structures import Predictions


@dataclass(frozen=True)
class StagePairs:
    """P pairs of a layer of the student and a layer of the teacher.

    Attributes:
        student, teacher: of each pair, the layer. weight: of each pair; those of a layer of the student add up to 1.
    """

    student: tuple[int, ...]
    teacher: tuple[int, ...]
    weight: tuple[float, ...]

    def of_student(self, by_layer: Tensor) -> Tensor:
        """(D, …) of its layers -> (P, …)."""
        return _chosen(by_layer, self.student)

    def of_teacher(self, by_layer: Tensor) -> Tensor:
        """The same of the teacher."""
        return _chosen(by_layer, self.teacher)

    def weights(self, like: Tensor) -> Tensor:
        """(P,) on the device of `like`."""
        made: Tensor = _on_device(self.weight, like.device)
        return made

    @property
    def last_of_each(self) -> tuple[int, ...]:
        """Of each layer of the student, the last layer that it learns from."""
        return tuple(dict(zip(self.student, self.teacher)).values())

    def from_the_last(self) -> "StagePairs":
        """Each layer of the student learns from the teacher's last."""
        layers = tuple(dict.fromkeys(self.student))
        return StagePairs(layers, (max(self.teacher),) * len(layers), (1.0,) * len(layers))


def stage_pairs(student: int, teacher: int) -> StagePairs:
    """The progressive mapping of figure 5: with 3 layers and 6, the first learns from the first two, and so on. The
    last learns from the last.

    Args:
        student, teacher: how many decoder layers they have.
    """
    if student > teacher:
        pairs = [(k, math.ceil((k + 1) * teacher / student) - 1) for k in range(student)]
    else:
        pairs = [(math.ceil((t + 1) * student / teacher) - 1, t) for t in range(teacher)]
    times = Counter(k for k, _ in pairs)
    ours, theirs = zip(*pairs)
    return StagePairs(ours, theirs, tuple(1 / times[k] for k in ours))


def in_pairs(predictions: Predictions, layers: tuple[int, ...]) -> Predictions:
    """Of these layers, one by one."""
    return Predictions(_chosen(predictions.logits, layers), _chosen(predictions.boxes, layers), predictions.valid)


def _chosen(by_layer: Tensor, layers: tuple[int, ...]) -> Tensor:
    if layers == tuple(range(len(by_layer))):
        return by_layer
    return by_layer.index_select(0, _on_device(layers, by_layer.device))


@cached
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device)
