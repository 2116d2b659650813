"""CLIP's own ResNet as a backbone: three convolutions as a stem, and average pooling wherever others take strides.

Only stem and blocks differ from Detectron2's ResNet; stages, freezing and outputs are its own. The attention that pools
CLIP's last map is no part of it. Source: CLIP (ICML 2021), §2.4, and its release.
"""

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import CNNBlockBase, Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}  # by MODEL.RESNETS.DEPTH
STAGES = ("res2", "res3", "res4", "res5")


def _conv(in_channels: int, out_channels: int, kernel: int, norm: str, **more: Any) -> nn.Module:
    layer = Conv2d(
        in_channels, out_channels, kernel, padding=kernel // 2, bias=False, norm=get_norm(norm, out_channels), **more
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer


class ClipStem(CNNBlockBase):
    """(B, 3, H, W) -> (B, C, H/4, W/4)."""

    def __init__(self, out_channels: int, norm: str) -> None:
        super().__init__(3, out_channels, 4)
        half = out_channels // 2
        self.conv1 = _conv(3, half, 3, norm, stride=2)
        self.conv2 = _conv(half, half, 3, norm)
        self.conv3 = _conv(half, out_channels, 3, norm)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.conv1, self.conv2, self.conv3):
            x = layer(x).relu_()
        return F.avg_pool2d(x, 2)


class ClipBottleneck(CNNBlockBase):
    """Convolutions 1×1, 3×3, 1×1 beside a shortcut; a stride averages before the last one and before the shortcut."""

    def __init__(
        self, in_channels: int, out_channels: int, *, bottleneck_channels: int, stride: int = 1, norm: str = "BN"
    ) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.conv1 = _conv(in_channels, bottleneck_channels, 1, norm)
        self.conv2 = _conv(bottleneck_channels, bottleneck_channels, 3, norm)
        self.conv3 = _conv(bottleneck_channels, out_channels, 1, norm)
        changes = stride > 1 or in_channels != out_channels
        self.shortcut = _conv(in_channels, out_channels, 1, norm) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv2(self.conv1(x).relu_()).relu_()
        if self.stride > 1:
            out, x = F.avg_pool2d(out, self.stride), F.avg_pool2d(x, self.stride)
        return (self.conv3(out) + (x if self.shortcut is None else self.shortcut(x))).relu_()


def clip_resnet(blocks: tuple[int, ...], width: int, norm: str, out_features: list[str], freeze_at: int = 0) -> ResNet:
    """The backbone.

    Args:
        blocks: of each stage. width: channels of the stem; res2 … res5 have 4, 8, 16, 32 times as many.
        norm: a name of Detectron2's. out_features: of res2 … res5. freeze_at: stages that are not trained, 1 the stem.
    """
    stages, channels = [], width
    for number, num_blocks in enumerate(blocks):
        bottleneck = width * 2**number
        strides = [1 if number == 0 else 2] + [1] * (num_blocks - 1)
        sizes = {"in_channels": channels, "out_channels": 4 * bottleneck, "bottleneck_channels": bottleneck}
        stages.append(ResNet.make_stage(ClipBottleneck, num_blocks, stride_per_block=strides, norm=norm, **sizes))
        channels = 4 * bottleneck
    return ResNet(ClipStem(width, norm), stages, out_features=out_features, freeze_at=freeze_at)


@BACKBONE_REGISTRY.register()
def build_clip_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The backbone of MODEL.RESNETS.DEPTH (50, 101), STEM_OUT_CHANNELS, NORM, OUT_FEATURES and BACKBONE.FREEZE_AT."""
    resnets = cfg.MODEL.RESNETS
    if resnets.DEPTH not in BLOCKS:
        raise ValueError(f"MODEL.RESNETS.DEPTH is {resnets.DEPTH}; CLIP has ResNets of {', '.join(map(str, BLOCKS))}.")
    if resnets.RES2_OUT_CHANNELS != 4 * resnets.STEM_OUT_CHANNELS:
        raise ValueError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {resnets.RES2_OUT_CHANNELS}; in CLIP's ResNets it is 4 times "
            f"MODEL.RESNETS.STEM_OUT_CHANNELS, {4 * resnets.STEM_OUT_CHANNELS}."
        )
    return clip_resnet(
        BLOCKS[resnets.DEPTH],
        resnets.STEM_OUT_CHANNELS,
        resnets.NORM,
        resnets.OUT_FEATURES,
        cfg.MODEL.BACKBONE.FREEZE_AT,
    )
