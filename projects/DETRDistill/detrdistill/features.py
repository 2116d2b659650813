"""Feature maps that both detectors have, level by level. B images, C channels, L levels that are paired."""

from collections.abc import Iterator, Sequence
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
        student: (B, C, h, w), brought to the teacher's channels. teacher: (B, C, h, w), without gradient. Both in full
            precision.
        valid: (B, h, w) 1 for cells that show the image, 0 for padding.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor

    @property
    def num_valid(self) -> Tensor:
        """(B,) cells of each image."""
        return self.valid.sum((1, 2))

    def weighted_squares(self, weights: Tensor, cells: Tensor | None = None) -> Tensor:
        """The mean square of the difference, weighted by cells, the mean over images.

        Args:
            weights: (B, h, w). cells: (B,) that it is divided by; None for those that show the image.
        """
        squares = (self.student - self.teacher).square().mean(1) * weights
        return (squares.sum((1, 2)) / (self.num_valid if cells is None else cells)).mean()


class PairedLevels(nn.Module):
    """Levels of the same stride, and what brings the student's channels to the teacher's: a 1×1 convolution for each
    level, or nothing where they are as many.

    Args:
        tap: of `TAPS`. pairs: number of a level of the student, and of the teacher's.
        student, teacher: channels.
    """

    def __init__(self, tap: str, pairs: Sequence[tuple[int, int]], student: int, teacher: int) -> None:
        super().__init__()
        self.tap, self.pairs, self.channels = tap, tuple(pairs), teacher
        same = student == teacher
        self.adapters = nn.ModuleList(nn.Identity() if same else nn.Conv2d(student, teacher, 1) for _ in pairs)

    @staticmethod
    def of(tap: str, student: Side, teacher: Side) -> "PairedLevels":
        """Raises ValueError, naming both, where no level of one has the stride of a level of the other."""
        pairs = list(_same_strides(student.strides, teacher.strides))
        if not pairs:
            raise ValueError(
                f"Terms of features pair levels of one stride: the student has levels of {_said(student.strides)} "
                f"pixels, the teacher of {_said(teacher.strides)}. Change MODEL.DETR.IN_FEATURES of one, or take such "
                "terms out of MODEL.DETRDISTILL.TERMS."
            )
        return PairedLevels(tap, pairs, student.channels, teacher.channels)

    def __len__(self) -> int:
        return len(self.pairs)

    def forward(self, step: Step) -> list[Level]:
        """Those of a training step. Raises ValueError where maps of one stride differ in size."""
        ours = self._maps(step.inputs.pyramid, step.inputs.memory)
        theirs = self._maps(step.teacher.pyramid, step.teacher.memory)
        valid, levels = _valid(step.inputs.memory), []
        for (i, j), adapt in zip(self.pairs, self.adapters):
            if ours[i].shape[-2:] != theirs[j].shape[-2:]:
                raise ValueError(
                    f"Level {i} of the student has {tuple(ours[i].shape[-2:])} cells, level {j} of the teacher, of the "
                    f"same stride, {tuple(theirs[j].shape[-2:])}: terms of features cannot compare them."
                )
            levels.append(Level(adapt(ours[i]).float(), theirs[j].float(), valid[i]))
        return levels

    def _maps(self, pyramid: FeaturePyramid, memory: Memory) -> Sequence[Tensor]:
        return pyramid.levels if self.tap == "neck" else maps_of(memory)


def _same_strides(ours: Sequence[int | None], theirs: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Each level once."""
    left = dict(enumerate(theirs))
    for i, stride in enumerate(ours):
        j = next((j for j, other in left.items() if stride is not None and other == stride), None)
        if j is not None:
            del left[j]
            yield i, j


def _said(strides: Sequence[int | None]) -> str:
    return ", ".join("?" if stride is None else str(stride) for stride in strides)


def maps_of(memory: Memory) -> list[Tensor]:
    """(B, S, C) tokens as maps (B, C, h, w)."""
    parts = memory.tokens.split([h * w for h, w in memory.shapes], dim=1)
    return [part.transpose(1, 2).unflatten(2, shape) for part, shape in zip(parts, memory.shapes)]


def _valid(memory: Memory) -> list[Tensor]:
    """(B, h, w) of each level, as `Level` has it."""
    tokens = memory.tokens
    all_of_them = torch.ones(tokens.shape[:2], device=tokens.device)
    shown = all_of_them if memory.padding is None else all_of_them.masked_fill(memory.padding, 0.0)
    parts = shown.split([h * w for h, w in memory.shapes], dim=1)
    return [part.unflatten(1, shape) for part, shape in zip(parts, memory.shapes)]
