"""FGD: objects and background apart, where the teacher attends most; and how cells relate to the whole image.

B images, C channels, h and w of a level.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from dk_detr.layers import to_xyxy
from dk_detr.structures import Targets
from projects.DETRDistill.detrdistill.features import Level, PairedLevels, adapters, paired_levels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term


class FGD(Term):
    """Sums over the cells of an image, means over images, sums over levels.

    Args:
        channels: of the teacher. foreground, background, attention, relation: weights. temperature: of attention.

    Source: FGD, Yang et al. (CVPR 2022).
    """

    def __init__(
        self,
        levels: PairedLevels,
        adapters: nn.ModuleList,
        channels: int,
        foreground: float,
        background: float,
        attention: float,
        relation: float,
        temperature: float,
    ) -> None:
        super().__init__()
        self.levels, self.adapters, self.temperature = levels, adapters, temperature
        self.foreground, self.background, self.attention = foreground, background, attention
        self.relation = relation
        self.ours = nn.ModuleList(GlobalContext(channels) for _ in adapters)
        self.theirs = nn.ModuleList(GlobalContext(channels) for _ in adapters)

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "FGD":
        """See `Term`."""
        levels, own = paired_levels(kd.TAP, student, teacher), kd.FGD
        weights = own.FOREGROUND, own.BACKGROUND, own.ATTENTION, own.RELATION
        return cls(levels, adapters(levels, student, teacher), teacher.channels, *weights, own.TEMPERATURE)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        parts = zip(self.levels(step), self.adapters, self.ours, self.theirs)
        losses = [
            self._of_level(adapt(level.student).float(), level, step.targets, *contexts)
            for level, adapt, *contexts in parts
        ]
        return {name: torch.stack([each[name] for each in losses]).sum() for name in losses[0]}

    def _of_level(
        self, ours: Tensor, level: Level, targets: Targets, context: nn.Module, context_of_teacher: nn.Module
    ) -> dict[str, Tensor]:
        images, valid = len(ours), level.valid
        (cells, channels), (our_cells, our_channels) = (
            attention_of(maps, valid, self.temperature) for maps in (level.teacher, ours)
        )
        squares = ((ours - level.teacher).square() * channels[..., None, None]).sum(1) * cells
        front = foreground_weights(targets, valid)
        behind = (front == 0) * valid
        behind = behind / behind.sum((1, 2), keepdim=True).clamp(min=1.0)
        unlike = (our_cells - cells).abs().sum() + (our_channels - channels).abs().sum()
        related = (context(ours, valid) - context_of_teacher(level.teacher, valid)).square() * valid[:, None]
        return {
            "foreground": self.foreground * (squares * front).sum() / images,
            "background": self.background * (squares * behind).sum() / images,
            "attention": self.attention * unlike / images,
            "relation": self.relation * related.sum() / images,
        }


def attention_of(maps: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, C, h, w) -> (B, h, w) attention of cells, h·w in all, and (B, C) of channels, C in all."""
    size = maps.abs() * valid[:, None]
    number = valid.sum((1, 2))
    of_cells = (size.mean(1) / temperature).masked_fill(valid == 0, -torch.inf).flatten(1).softmax(1)
    of_channels = (size.sum((2, 3)) / number[:, None] / temperature).softmax(1)
    return (of_cells * number[:, None]).view_as(valid), of_channels * maps.shape[1]


def foreground_weights(targets: Targets, valid: Tensor) -> Tensor:
    """(B, h, w): in each box 1 over its area in cells, the largest where boxes overlap; 0 outside of all."""
    weights = torch.zeros_like(valid)
    for weight, boxes, shown in zip(weights, targets.boxes, valid):
        sides = torch.stack([shown.amax(0).sum(), shown.amax(1).sum()]).repeat(2)  # cells (w, h) of the image
        corners = to_xyxy(boxes.float()) * sides
        low, high = corners[:, :2].floor().long().tolist(), corners[:, 2:].ceil().long().tolist()
        for (x0, y0), (x1, y1) in zip(low, high):
            inside = weight[max(y0, 0) : y1 + 1, max(x0, 0) : x1 + 1]
            inside.clamp_(min=1.0 / max((y1 + 1 - y0) * (x1 + 1 - x0), 1))
    return weights * valid


class GlobalContext(nn.Module):
    """Adds to each cell what the image is like as a whole.

    Source: GCNet, Cao et al. (2019), as FGD has it: the last layer starts at zero.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, 1, 1)
        self.change = nn.Sequential(
            nn.Linear(channels, channels // 2),
            nn.LayerNorm(channels // 2),
            nn.ReLU(),
            nn.Linear(channels // 2, channels),
        )
        last = self.change[-1]
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, valid: Tensor) -> Tensor:
        """(B, C, h, w), (B, h, w) -> (B, C, h, w)."""
        weights = self.weigh(maps).squeeze(1).float().masked_fill(valid == 0, -torch.inf).flatten(1).softmax(1)
        whole = torch.einsum("bcs,bs->bc", maps.flatten(2), weights)
        return maps + self.change(whole).float()[..., None, None]
