"""Feature maps that both detectors have, level by level. B images, C channels, L levels that are paired."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dk_detr.structures import FeaturePyramid, Memory
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step

TAPS = ("memory", "neck")
"""Names in MODEL.DETRDISTILL.TAP: what the encoder gives, or what it is given."""


@dataclass(frozen=True)
class Level:
    """One level of both.

    Attributes:
        student, teacher: (B, C, h, w) maps in full precision; those of the teacher without gradient.
        valid: (B, h, w) 1 for cells that show the image, 0 for padding.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor

    @property
    def num_valid(self) -> Tensor:
        """(B,) cells of each image."""
        return self.valid.sum((1, 2))


@dataclass(frozen=True)
class PairedLevels:
    """Levels of the same stride.

    Attributes:
        tap: of `TAPS`. student, teacher: of each pair, the number of the level.
    """

    tap: str
    student: tuple[int, ...]
    teacher: tuple[int, ...]

    def __call__(self, step: Step) -> list[Level]:
        """Those of a training step."""
        ours = self._maps(step.inputs.pyramid, step.inputs.memory)
        theirs = self._maps(step.teacher.pyramid, step.teacher.memory)
        valid = _valid(step.inputs.memory)
        return [
            Level(ours[i].float(), theirs[j].float(), valid[i].to(ours[i].device))
            for i, j in zip(self.student, self.teacher)
        ]

    def _maps(self, pyramid: FeaturePyramid, memory: Memory) -> Sequence[Tensor]:
        return pyramid.levels if self.tap == "neck" else maps_of(memory)


def paired_levels(tap: str, student: Side, teacher: Side) -> PairedLevels:
    """Raises ValueError, naming both, where no level of one has the stride of a level of the other."""
    both = [stride for stride in student.strides if stride is not None and stride in teacher.strides]
    if not both:
        raise ValueError(
            f"Terms of features pair levels of one stride: the student has levels of {_said(student.strides)} pixels, "
            f"the teacher of {_said(teacher.strides)}. Change MODEL.DETR.IN_FEATURES of one, or take such terms out of "
            "MODEL.DETRDISTILL.TERMS."
        )
    return PairedLevels(tap, *(tuple(map(side.strides.index, both)) for side in (student, teacher)))


def _said(strides: Sequence[int | None]) -> str:
    return ", ".join("?" if stride is None else str(stride) for stride in strides)


def maps_of(memory: Memory) -> list[Tensor]:
    """(B, S, C) tokens as maps (B, C, h, w)."""
    parts = memory.tokens.split([h * w for h, w in memory.shapes], dim=1)
    return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, memory.shapes)]


def _valid(memory: Memory) -> list[Tensor]:
    """(B, h, w) of each level, as `Level` has it."""
    images, cells = memory.tokens.shape[:2]
    shown = torch.ones(images, cells) if memory.padding is None else (~memory.padding).float()
    parts = shown.split([h * w for h, w in memory.shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, memory.shapes)]


def adapters(levels: PairedLevels, student: Side, teacher: Side) -> nn.ModuleList:
    """For each level what brings the student's channels to the teacher's: a 1×1 convolution, or nothing where they are
    as many."""

    def adapter() -> nn.Module:
        same = student.channels == teacher.channels
        return nn.Identity() if same else nn.Conv2d(student.channels, teacher.channels, 1)

    return nn.ModuleList(adapter() for _ in levels.student)
