"""Neck: brings the maps of a backbone to one width and adds coarser levels."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from dk_detr.utils import require

NORMS = ("GN", "SharedGN", "none")


class ChannelMapper(nn.Module):
    """A 1×1 convolution for each backbone map; each extra level a strided 3×3 one; GroupNorm after them.

    The first extra level is made from the last backbone map, not from its mapped version (Deformable DETR).

    Args:
        input_shape: of the backbone's maps. in_features: which of them, the finest first.
        channels: C of all levels, a multiple of 32. num_extra_levels: coarser levels beyond the backbone's.
        norm: "GN", of 32 groups, for each level; "SharedGN", one for all (AdaMixer); or "none" (DETR), where weights
            start as PyTorch's do: from Xavier's distribution, which the releases with a norm take, tokens would start
            2.3 times as large.
    """

    @configurable
    def __init__(
        self,
        input_shape: Mapping[str, ShapeSpec],
        in_features: Sequence[str],
        channels: int,
        num_extra_levels: int,
        norm: str = "GN",
    ) -> None:
        super().__init__()
        missing = [name for name in in_features if name not in input_shape]
        if missing:
            raise ValueError(
                f"MODEL.DETR.IN_FEATURES names {missing}, but the backbone gives {sorted(input_shape)}; "
                "see MODEL.RESNETS.OUT_FEATURES."
            )
        self.in_features = tuple(in_features)
        widths = [input_shape[name].channels for name in in_features]
        self._strides = [input_shape[name].stride for name in in_features]
        self.mappers = nn.ModuleList(_conv(width, channels, 1, 1, norm) for width in widths)
        self.norm = nn.GroupNorm(32, channels) if norm == "SharedGN" else nn.Identity()
        extra = [widths[-1]] + [channels] * num_extra_levels
        self.extra = nn.ModuleList(_conv(extra[i], channels, 3, 2, norm) for i in range(num_extra_levels))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        detr = cfg.MODEL.DETR
        require("MODEL.DETR.NECK_NORM", detr.NECK_NORM, NORMS)
        sizes = {"channels": detr.CHANNELS, "num_extra_levels": detr.NUM_EXTRA_LEVELS, "norm": detr.NECK_NORM}
        return {"input_shape": input_shape, "in_features": detr.IN_FEATURES, **sizes}

    @property
    def strides(self) -> tuple[int | None, ...]:
        """Of the L levels, in pixels; None where the backbone does not tell."""
        last = self._strides[-1]
        extra = [None if last is None else last * 2**number for number in range(1, len(self.extra) + 1)]
        return (*self._strides, *extra)

    @property
    def num_levels(self) -> int:
        """L, backbone levels and extra ones."""
        return len(self.mappers) + len(self.extra)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Backbone maps by name -> L maps (B, C, h, w), the finest first."""
        levels = [mapper(features[name]) for mapper, name in zip(self.mappers, self.in_features)]
        coarsest = features[self.in_features[-1]]
        for layer in self.extra:
            coarsest = layer(coarsest)
            levels.append(coarsest)
        return [self.norm(level) for level in levels]


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int, norm: str) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
    if norm == "none":
        return nn.Sequential(conv)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.GroupNorm(32, out_channels)) if norm == "GN" else nn.Sequential(conv)
