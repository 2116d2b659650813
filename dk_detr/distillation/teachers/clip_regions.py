"""CLIPRegions: CLIP sees each image once, and regions are cut out of what it has seen. N regions, E width."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation.teachers.clip_crops import CLIPCrops, in_pixels
from dk_detr.language import Clip
from dk_detr.modeling.acceleration import TEACHER
from dk_detr.structures import Regions, Vocabulary


class CLIPRegions(CLIPCrops):
    """One dense pass and RoIAlign in the place of a crop for each region: what the teacher costs hardly grows with
    their number. RegionCLIP's weights are trained for it, other CLIP ResNets can do it less well.

    Args:
        clip: with a convolutional image tower. others: see `CLIPCrops`.

    Source: RegionCLIP (CVPR 2022); as a teacher ours.
    """

    @configurable
    def __init__(self, clip: Clip, *others: Any, **more: Any) -> None:
        super().__init__(clip, *others, **more)
        _ = clip.regions  # what cannot look at regions is refused here

    @classmethod
    def from_config(cls, cfg: CfgNode, vocabulary: Vocabulary) -> dict[str, Any]:
        """Raises ValueError for a CLIP that is not that of the words, or that cannot look at regions."""
        if TEACHER in cfg.MODEL.DETR.COMPILED:
            raise ValueError(
                f'MODEL.DETR.COMPILED names "{TEACHER}", which is for crops of one size: take it out, or choose '
                'MODEL.TEACHER.NAME "CLIPCrops".'
            )
        return super().from_config(cfg, vocabulary)

    def look(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Callable[[Regions, float], Tensor]:
        """See `CLIPCrops`."""
        clip = self.guest.on(pixels.device)
        with self.in_its_precision(pixels.device):
            features = clip.regions.map_of(self._as_clip_sees(clip, pixels, image_sizes))

        def encode(regions: Regions, scale: float) -> Tensor:
            boxes = in_pixels(regions, image_sizes, scale)
            with self.in_its_precision(pixels.device):
                rows = clip.regions.encode(features, regions.image, boxes, self.batch_size)
            return F.normalize(rows.float(), dim=-1)

        return encode

    def _as_clip_sees(self, clip: Clip, pixels: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalised as CLIP's input, with zeros for padding."""
        mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (clip.mean, clip.std))
        seen = torch.zeros_like(pixels, dtype=torch.float32)
        for place, image, (h, w) in zip(seen, self.as_rgb(pixels.float()), image_sizes):
            place[:, :h, :w] = ((image - mean) / std)[:, :h, :w]
        return seen.contiguous(memory_format=torch.channels_last)
