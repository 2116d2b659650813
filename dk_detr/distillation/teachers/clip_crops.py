"""CLIPCrops: the teacher of DK-DETR, CLIP's image encoder on crops of the live proposals. N regions, E width."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from dk_detr.distillation.beside import beside
from dk_detr.distillation.guest import Guest
from dk_detr.language import Clip, clip_from_config, require_words_of
from dk_detr.layers import to_xyxy
from dk_detr.modeling import InitialQueries
from dk_detr.modeling.acceleration import BACKEND, TEACHER, Compiled, Compiler
from dk_detr.structures import Candidates, Regions, TeacherInput, Vocabulary
from dk_detr.utils import choose


class CLIPCrops:
    """Crop boxes out of the network's input, all in one operation on the device, and encode them.

    Args:
        clip: frozen; it lives here as a guest.
        pixel_mean, pixel_std: how the network's input was normalised, in the order of its channels.
        bgr: whether these channels are BGR.
        crop_scales: of the box's sides around its centre. Several are encoded, added and normalised (ViLD): 1.0, or
            1.0 and 1.5 for context.
        batch_size: crops that are encoded at once.
        dtype: what CLIP computes in, by autocast. compiled: whether its encoder goes through torch.compile.
    """

    @configurable
    def __init__(
        self,
        clip: Clip,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        bgr: bool,
        crop_scales: Sequence[float] = (1.0,),
        batch_size: int = 1024,
        dtype: torch.dtype = torch.float32,
        compiled: bool = False,
    ) -> None:
        if not crop_scales or min(crop_scales) <= 0:
            raise ValueError(f"MODEL.TEACHER.CROP_SCALES needs positive numbers, got {tuple(crop_scales)}.")
        self.guest, self.width, self.image_size = Guest(clip), clip.width, clip.image_size
        self.mean, self.std, self.bgr = tuple(pixel_mean), tuple(pixel_std), bgr
        self.crop_scales, self.batch_size, self.dtype = tuple(crop_scales), batch_size, dtype
        clip.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encode: Callable[[Clip, Tensor], Tensor] = Clip.encode_image
        if compiled:
            self.encode = Compiled(Clip.encode_image, Compiler(BACKEND))

    @classmethod
    def from_config(cls, cfg: CfgNode, vocabulary: Vocabulary) -> dict[str, Any]:
        """Raises ValueError for a CLIP that is not that of the words."""
        clip = clip_from_config(cfg)
        require_clip_of(cfg, clip, vocabulary)
        return {
            "clip": clip,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "bgr": cfg.INPUT.FORMAT == "BGR",
            "crop_scales": cfg.MODEL.TEACHER.CROP_SCALES,
            "dtype": teacher_dtype(cfg),
            "compiled": TEACHER in cfg.MODEL.DETR.COMPILED,
        }

    def candidates(self, shown: TeacherInput, initial: InitialQueries) -> Candidates:
        """See `Teacher`: the live proposals."""
        boxes, objectness = initial.group.reference, initial.objectness
        assert boxes is not None and objectness is not None  # from_config.py lets no other queries pass
        return Candidates(boxes, objectness)

    def ask(self, shown: TeacherInput, regions: Regions) -> Callable[[], Tensor]:
        """See `Teacher`. On a GPU CLIP works on a stream of its own, beside what follows."""
        shown_to_clip = (shown.pixels, regions.image, regions.boxes)
        return beside(lambda: self(shown.pixels, shown.image_sizes, regions), shown_to_clip, "CLIP")

    @torch.no_grad()
    def __call__(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]], regions: Regions) -> Tensor:
        """What CLIP sees in the regions: (N, E) unit rows.

        Args:
            pixels: (B, 3, H, W) normalised, padded network input. image_sizes: (h, w) of the images in it.
        """
        if len(regions) == 0:
            return pixels.new_zeros(0, self.width)
        look = self.look(pixels, image_sizes)
        views = [look(regions, scale) for scale in self.crop_scales]
        return F.normalize(sum(views[1:], start=views[0]), dim=-1)

    def look(self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Callable[[Regions, float], Tensor]:
        """What encodes regions of these images, with their sides times a scale: (N, E) unit rows."""
        return lambda regions, scale: self._encode(self.crop(pixels, image_sizes, regions, scale))

    def crop(
        self, pixels: Tensor, image_sizes: Sequence[tuple[int, int]], regions: Regions, scale: float = 1.0
    ) -> Tensor:
        """(N, 3, S, S) RGB in [0, 1]: the boxes, clipped to their image and stretched to a square.

        Each output pixel is the mean of what falls on it, so shrinking does not alias.
        """
        xyxy = in_pixels(regions, image_sizes, scale).to(pixels.dtype)
        rois = torch.cat([regions.image[:, None].to(pixels.dtype), xyxy], dim=1)
        pixels = _with_margins(pixels, image_sizes)
        crops = roi_align(pixels, rois, output_size=self.image_size, sampling_ratio=-1, aligned=True)
        return self.as_rgb(crops)

    def as_rgb(self, pixels: Tensor) -> Tensor:
        """(N, 3, h, w) as the network's input -> RGB in [0, 1]."""
        mean, std = (pixels.new_tensor(value).view(3, 1, 1) for value in (self.mean, self.std))
        pixels = ((pixels * std + mean) / 255).clamp(0, 1)
        return pixels.flip(1) if self.bgr else pixels

    def in_its_precision(self, device: torch.device) -> torch.autocast:
        """The context that CLIP computes in."""
        half = self.dtype != torch.float32
        return torch.autocast(device.type, self.dtype if half else None, enabled=half)

    def _encode(self, crops: Tensor) -> Tensor:
        clip = self.guest.on(crops.device)
        crops = crops.float().contiguous(memory_format=torch.channels_last)
        with self.in_its_precision(crops.device):
            parts = [self.encode(clip, part) for part in crops.split(self.batch_size)]
        return torch.cat(parts)


def in_pixels(regions: Regions, image_sizes: Sequence[tuple[int, int]], scale: float) -> Tensor:
    """(N, 4) xyxy in pixels of regions with their sides times `scale`, clipped to their image (h, w)."""
    sizes = regions.boxes.new_tensor([(w, h, w, h) for h, w in image_sizes])[regions.image]
    sides = regions.boxes.new_tensor([1.0, 1.0, scale, scale])
    return to_xyxy(regions.boxes * sides).clamp(0, 1) * sizes


def require_clip_of(cfg: CfgNode, clip: Clip, vocabulary: Vocabulary) -> None:
    """Raises ValueError for a CLIP that is not that of the words: it could not teach this config's detector."""
    if clip.width != vocabulary.width:
        raise ValueError(
            f"The teacher {cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP) gives embeddings of width {clip.width}, but "
            f"MODEL.VOCABULARY.TEST has width {vocabulary.width}: both must come from the same CLIP."
        )
    require_words_of(clip, vocabulary)


def teacher_dtype(cfg: CfgNode, teacher: str = "TEACHER") -> torch.dtype:
    """What a teacher computes in: MODEL.TEACHER.DTYPE. `teacher`: its group of keys below MODEL."""
    automatic = torch.float32 if cfg.MODEL.DEVICE == "cpu" else torch.bfloat16
    dtypes = {"auto": automatic, "float32": torch.float32, "bfloat16": torch.bfloat16}
    return choose(dtypes, f"MODEL.{teacher}.DTYPE", cfg.MODEL[teacher].DTYPE)


def _with_margins(pixels: Tensor, image_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """The images with their last row and column said twice where padding follows.

    Bilinear reading reaches half a pixel beyond an image, and should find there what is at its edge.
    """
    height, width = pixels.shape[-2:]
    if all((h, w) == (height, width) for h, w in image_sizes):
        return pixels
    pixels = pixels.clone()
    for image, (h, w) in zip(pixels, image_sizes):
        if w < width:
            image[:, :, w] = image[:, :, w - 1]
        if h < height:
            image[:, h] = image[:, h - 1]
    return pixels
