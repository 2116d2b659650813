"""Targets and Assignment: the ground truth of a batch, and which prediction answers for which object.

B images, M objects, N matched pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """Ground truth of a batch.

    Attributes:
        labels: per image (M,) class indices.
        boxes: per image (M, 4) cxcywh in [0, 1] of the unpadded image.
    """

    labels: tuple[Tensor, ...]
    boxes: tuple[Tensor, ...]

    @property
    def counts(self) -> list[int]:
        """Number of objects of each image."""
        return [len(labels) for labels in self.labels]

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """Labels (B, M) and boxes (B, M, 4) with M of the fullest image; what is added is 0 and not an object."""
        pad = torch.nn.utils.rnn.pad_sequence
        return pad(list(self.labels), batch_first=True), pad(list(self.boxes), batch_first=True)

    @cached_property
    def real(self) -> Tensor:
        """(B, M) bool, which of `padded` are objects."""
        ones = [torch.ones_like(labels, dtype=torch.bool) for labels in self.labels]
        return torch.nn.utils.rnn.pad_sequence(ones, batch_first=True)

    def class_agnostic(self) -> "Targets":
        """The same objects, all of class 0: what the first stage learns from."""
        return Targets(tuple(torch.zeros_like(labels) for labels in self.labels), self.boxes)

    def joined(self, other: "Targets") -> "Targets":
        """Of each image the objects of both."""
        labels, boxes = zip(self.labels, other.labels), zip(self.boxes, other.boxes)
        return Targets(tuple(map(torch.cat, labels)), tuple(map(torch.cat, boxes)))

    def repeated(self, copies: int) -> "Targets":
        """Each image's objects so many times, one copy of all after the other."""
        labels = tuple(labels.repeat(copies) for labels in self.labels)
        return Targets(labels, tuple(boxes.repeat(copies, 1) for boxes in self.boxes))


@dataclass(frozen=True)
class Assignment:
    """N pairs of a prediction and the object that it answers for.

    Attributes:
        layer, image, query: (N,) where the prediction stands in Predictions.
        target: (N,) which object of that image.
    """

    layer: Tensor
    image: Tensor
    query: Tensor
    target: Tensor

    def of_layer(self, layer: int) -> "Assignment":
        """The pairs of one decoder layer."""
        keep = self.layer == layer
        return Assignment(self.layer[keep], self.image[keep], self.query[keep], self.target[keep])

    def of_all_layers(self, depth: int) -> "Assignment":
        """The pairs of one layer in each of `depth` layers."""
        layer = torch.arange(depth, device=self.image.device).repeat_interleave(len(self.image))
        return Assignment(layer, self.image.repeat(depth), self.query.repeat(depth), self.target.repeat(depth))
