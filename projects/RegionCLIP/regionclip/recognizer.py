"""Recognizer: CLIP's image tower as a part of a detector. B images, N regions, C channels, E text width."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from dk_detr.language import Clip, region_tower


class Recognizer(nn.Module):
    """From images to a map, and from regions of the map to embeddings.

    Statistics and weights of its norms stay as they are, as in the release.

    Args:
        clip: with a ResNet; its image tower becomes this module's. freeze_at: 1 the stem, 2 and the first stage.
    """

    def __init__(self, clip: Clip, freeze_at: int = 2) -> None:
        super().__init__()
        self.visual: Any = clip.model.visual
        self.width = clip.width
        self.tower = region_tower(clip)
        self.visual.requires_grad_(True)
        for module in self._norms():
            module.requires_grad_(False)
        for part in list(self.tower.early.children())[:freeze_at]:
            part.requires_grad_(False)

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.visual.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> "Recognizer":
        """Norms never train."""
        super().train(mode)
        for module in self._norms():
            module.eval()
        return self

    @property
    def channels(self) -> int:
        """C of the features of a region, before they are pooled."""
        for module in reversed(list(self.tower.stage.modules())):
            if isinstance(module, nn.Conv2d):
                return module.out_channels
        raise AssertionError("a stage has convolutions")

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), normalised as CLIP's input, padded with zeros -> (B, C, h, w)."""
        return self.tower.map_of(pixels)

    def features_of(self, features: Tensor, boxes_xyxy: Sequence[Tensor]) -> Tensor:
        """(N, C, S / 2, S / 2) of regions.

        Args:
            features: the map. boxes_xyxy: of each image, (n, 4) in pixels.
        """
        return self.tower.features_of(features, *numbered(boxes_xyxy))

    def embeddings_of(self, features: Tensor, boxes_xyxy: Sequence[Tensor]) -> Tensor:
        """(N, E) of regions, not normalised, in portions: for inference."""
        return self.tower.encode(features, *numbered(boxes_xyxy))

    def pool(self, features: Tensor) -> Tensor:
        """What `features_of` gives -> (N, E), not normalised."""
        embeddings: Tensor = self.tower.pool(features)
        return embeddings


def numbered(boxes_xyxy: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of each box the number of its image, and the boxes."""
    numbers = [boxes.new_full((len(boxes),), index).long() for index, boxes in enumerate(boxes_xyxy)]
    return torch.cat(numbers), torch.cat(list(boxes_xyxy))


class Pixels(nn.Module):
    """Samples as the recognizer's input: normalised, on the device, padded with zeros on the right and below.

    Args:
        mean, std: of the channels, in the order of INPUT.FORMAT.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Of "image" (3, h, w)."""
        return ImageList.from_tensors(
            [(one["image"].to(self.mean.device) - self.mean) / self.std for one in batched_inputs]
        )
