"""What CLIP sees in boxes of an image. N regions, E embedding width."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dk_detr.distillation import CLIPCrops
from dk_detr.language import Clip
from dk_detr.layers import to_normalized_cxcywh
from dk_detr.structures import Regions


class RegionEncoder:
    """Crops at several scales from the original pixels, each encoded, added and normalised.

    Args:
        bgr: the order of the pixels. scales: of the box's sides. device, dtype: of CLIP's work.

    Source: ViLD (ICLR 2022), which takes 1.0 and 1.5; the crops are those of `CLIPCrops`.
    """

    def __init__(
        self, clip: Clip, bgr: bool, scales: Sequence[float], device: str | torch.device, dtype: torch.dtype
    ) -> None:
        self.device = torch.device(device)
        # Pixels come as they are on disk: mean 0 and deviation 1.
        self.teacher = CLIPCrops(clip, (0.0,) * 3, (1.0,) * 3, bgr=bgr, crop_scales=scales, dtype=dtype)

    @torch.no_grad()
    def __call__(self, pixels: Tensor, boxes_xyxy_abs: Tensor) -> Tensor:
        """(3, h, w) uint8, (N, 4) -> (N, E) float16 unit rows on the CPU."""
        size = (pixels.shape[-2], pixels.shape[-1])
        number = torch.arange(len(boxes_xyxy_abs), device=self.device)
        regions = Regions(torch.zeros_like(number), number, to_normalized_cxcywh(boxes_xyxy_abs.to(self.device), size))
        rows: Tensor = self.teacher(pixels[None].to(self.device).float(), [size], regions)
        return rows.half().cpu()
