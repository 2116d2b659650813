"""RegionTower: CLIP's image tower, cut in two, so that one look at an image answers for any number of its regions.

B images, N regions, C channels, S side of a region in cells, E width of the embeddings.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from dk_detr.language.clip import Clip

Stages = tuple[nn.Module, nn.Module, nn.Module]
SAME = 1e-3  # most that one less the cosine of an image in both may be


class RegionTower:
    """The first part makes a map of a whole image, the rest an embedding of a region that is cut out of the map. Where
    the region is an image of the tower's own size, all together are the tower.

    Args:
        early: pixels -> map: a sequence of the stem and all stages but the last. stage: (N, C, S, S) of the map -> what
            the region's features are in the end. pool: these -> (N, E).
        stride: of the map, in pixels. side: S.

    Source: RegionCLIP (CVPR 2022): RoIAlign after the third stage, then the last stage and the attention that pools it.
    """

    def __init__(self, early: nn.Module, stage: nn.Module, pool: nn.Module, stride: int, side: int) -> None:
        self.early, self.stage, self.pool, self.stride, self.side = early, stage, pool, stride, side

    def map_of(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W), normalised as CLIP's input, -> (B, C, h, w). Strips are padded with zeros to one cell."""
        height, width = pixels.shape[-2:]
        pixels = F.pad(pixels, (0, max(self.stride - width, 0), 0, max(self.stride - height, 0)))
        made: Tensor = self.early(pixels)
        return made

    def encode(self, features: Tensor, image: Tensor, boxes_xyxy: Tensor, batch_size: int = 256) -> Tensor:
        """(N, E), not normalised, of regions.

        Args:
            features: (B, C, h, w) of `map_of`. image: (N,) index. boxes_xyxy: (N, 4) in pixels.
            batch_size: regions that are encoded at once.
        """
        parts = [self.pool(self.features_of(features, *part)) for part in _split(batch_size, image, boxes_xyxy)]
        return torch.cat(parts)

    def features_of(self, features: Tensor, image: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """(N, C, h, w) of the last stage, of the same regions."""
        made: Tensor = self.stage(self._cut(features, image, boxes_xyxy))
        return made

    def _cut(self, features: Tensor, image: Tensor, boxes_xyxy: Tensor) -> Tensor:
        rois, scale = torch.cat([image[:, None].to(boxes_xyxy.dtype), boxes_xyxy], dim=1), 1 / self.stride
        cut = roi_align(features.float(), rois.float(), self.side, scale, sampling_ratio=-1, aligned=True)
        return cut.to(features.dtype)


def _split(size: int, *columns: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(column.split(size) for column in columns))


def region_tower(clip: Clip) -> RegionTower:
    """The image tower of a CLIP, cut before its last stage. Its modules stay the CLIP's.

    Raises: ValueError for a tower that is no chain of convolutional stages, such as a ViT.
    """
    visual: Any = clip.model.visual
    stages = _of_clip_resnet(visual) or _of_timm(visual)
    if stages is None:
        raise _cannot(clip, "it is no chain of convolutional stages, as CLIP's ResNets are (RN50, RN50x4)")
    early, stage, pool = stages
    side_in = clip.image_size
    with torch.no_grad():
        pixels = _noise(side_in).to(clip.device, next(clip.model.parameters()).dtype)
        cells = early(pixels).shape[-1]
        tower = RegionTower(early, stage, pool, side_in // cells, cells)
        whole = torch.tensor([[0.0, 0.0, side_in, side_in]], device=clip.device)
        ours = tower.encode(tower.map_of(pixels), torch.zeros(1, dtype=torch.long, device=clip.device), whole)
        theirs = clip.model.encode_image(pixels)  # type: ignore[operator]
    if 1 - F.cosine_similarity(ours.float(), theirs.float()).item() > SAME:
        raise _cannot(clip, "cut before its last stage it gives another embedding of the same image")
    return tower


def _noise(side: int) -> Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def _cannot(clip: Clip, why: str) -> ValueError:
    name = clip.provenance.get("architecture", "?")
    return ValueError(
        f'MODEL.CLIP.ARCHITECTURE "{name}": its image tower cannot look at regions of one map, for {why}. Choose a '
        "ResNet of CLIP, or crops of the image (CLIPCrops)."
    )


def _of_clip_resnet(visual: nn.Module) -> Stages | None:
    """Of open_clip's ModifiedResNet, and that of OpenAI's package; None for others."""
    parts = dict(visual.named_children())
    if not {"layer4", "attnpool", "conv3", "avgpool"} <= parts.keys():
        return None
    stem: list[nn.Module] = []
    for number in (1, 2, 3):
        relu = parts.get(f"act{number}") or parts.get(f"relu{number}") or parts.get("relu") or nn.ReLU()
        stem += [parts[f"conv{number}"], parts[f"bn{number}"], relu]
    first = nn.Sequential(*stem, parts["avgpool"])
    early = nn.Sequential(first, parts["layer1"], parts["layer2"], parts["layer3"])
    return early, parts["layer4"], parts["attnpool"]


def _of_timm(visual: nn.Module) -> Stages | None:
    """Of a convolutional model of timm with a stem, stages and a head, in open_clip; None for others."""
    trunk, head = getattr(visual, "trunk", None), getattr(visual, "head", None)
    if trunk is None or head is None:
        return None
    parts = dict(trunk.named_children())
    if list(parts)[:2] != ["stem", "stages"] or len(parts["stages"]) < 2:  # type: ignore[arg-type]
        return None
    *first, last = parts["stages"].children()
    *after, pool = (parts[name] for name in list(parts)[2:])
    return nn.Sequential(parts["stem"], *first), nn.Sequential(last, *after), nn.Sequential(pool, head)
