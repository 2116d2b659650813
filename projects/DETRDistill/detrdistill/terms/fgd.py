"""FGD: objects and background apart, where the teacher attends most; and how cells relate to the whole image.

B images, C channels, h and w of a level, O objects of the fullest image.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

from dk_detr.layers import to_xyxy
from dk_detr.structures import Targets
from projects.DETRDistill.detrdistill.features import Level, PairedLevels
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import full_precision
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import FeatureTerm


class FGD(FeatureTerm):
    """Sums over the cells of an image, means over images.

    Args:
        foreground, background, attention, relation: weights. temperature: of attention.

    Source: FGD, Yang et al. (CVPR 2022).
    """

    def __init__(
        self,
        levels: PairedLevels,
        foreground: float,
        background: float,
        attention: float,
        relation: float,
        temperature: float,
    ) -> None:
        super().__init__(levels)
        self.foreground, self.background, self.attention = foreground, background, attention
        self.relation, self.temperature = relation, temperature
        self.ours = nn.ModuleList(GlobalContext(levels.channels) for _ in range(len(levels)))
        self.theirs = nn.ModuleList(GlobalContext(levels.channels) for _ in range(len(levels)))

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "FGD":
        """See `Term`."""
        own = kd.FGD
        weights = own.FOREGROUND, own.BACKGROUND, own.ATTENTION, own.RELATION
        return cls(PairedLevels.of(kd.TAP, student, teacher), *weights, own.TEMPERATURE)

    def of_level(self, number: int, level: Level, step: Step) -> dict[str, Tensor]:
        """See `FeatureTerm`."""
        ours, theirs, valid, images = level.student, level.teacher, level.valid, len(level.valid)
        cells, channels = attention_of(theirs, valid, self.temperature)
        our_cells, our_channels = attention_of(ours, valid, self.temperature)
        squares = ((ours - theirs).square() * channels[..., None, None]).sum(1) * cells
        front = foreground_weights(step.targets, valid)
        behind = (front == 0) * valid
        behind = behind / behind.sum((1, 2), keepdim=True).clamp(min=1.0)
        unlike = (our_cells - cells).abs().sum() + (our_channels - channels).abs().sum()
        related = (self.ours[number](ours, valid) - self.theirs[number](theirs, valid)).square() * valid[:, None]
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
    if not any(targets.counts):
        return torch.zeros_like(valid)
    sides = torch.stack([valid.amax(1).sum(1), valid.amax(2).sum(1)], dim=-1).repeat(1, 2)  # (B, 4) cells w, h, w, h
    corners = to_xyxy(targets.padded[1].float()) * sides[:, None]
    low, high = corners[..., :2].floor().clamp(min=0), corners[..., 2:].ceil() + 1  # the release takes one cell more
    area = (high - corners[..., :2].floor()).prod(-1)
    y, x = (torch.arange(size, device=valid.device) for size in valid.shape[1:])
    rows = (y >= low[..., 1:]) & (y < high[..., 1:])  # (B, O, h)
    columns = (x >= low[..., :1]) & (x < high[..., :1])
    real = (area > 0) & targets.real
    weights = torch.where(real, 1 / area.clamp(min=1.0), 0.0)[..., None, None]
    return (rows[..., None] & columns[..., None, :]).mul(weights).amax(1) * valid


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
        with full_precision(maps):
            whole = torch.einsum("bcs,bs->bc", maps.flatten(2).float(), weights)
        return maps + self.change(whole).float()[..., None, None]
