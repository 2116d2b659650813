"""The pretraining: CLIP's image tower learns to name regions. B images, N regions, K concepts, E text width."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.distillation.beside import beside
from dk_detr.distillation.gather import gather_rows
from dk_detr.distillation.guest import Guest
from dk_detr.language import Clip, RegionTower, clip_from_config, require_words_of
from dk_detr.language.from_config import read_vocabulary, require_pixels_of
from dk_detr.structures import Vocabulary
from dk_detr.utils import record
from projects.RegionCLIP.regionclip.localizer import Localizer, localizer_from_config
from projects.RegionCLIP.regionclip.losses import contrastive_loss, distillation_loss, image_text_loss, kept_regions
from projects.RegionCLIP.regionclip.recognizer import Pixels, Recognizer, numbered

POOL = "MODEL.REGIONCLIP.PRETRAINING.POOL"


class FrozenClip:
    """The teacher: what a CLIP says of regions and captions.

    Args:
        clip: lives here as a guest.
    """

    def __init__(self, clip: Clip) -> None:
        self.guest = Guest(clip)
        _ = clip.regions  # what cannot look at regions is refused here

    def regions(self, pixels: Tensor, image: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """(N, E) rows, see `RegionTower`."""
        tower: RegionTower = self.guest.on(pixels.device).regions
        return tower.encode(tower.map_of(pixels), image, boxes_xyxy)

    def captions(self, texts: list[str], device: torch.device) -> Tensor:
        """(B, E) unit rows."""
        rows: Tensor = self.guest.on(device).encode_text(texts)
        return rows


@META_ARCH_REGISTRY.register()
class RegionCLIPPretraining(nn.Module):
    """A frozen CLIP names the regions of a localizer with concepts of a pool; a copy of it learns from that, and from
    captions of whole images.

    Training: list of dicts with "image" (3, h, w) and "caption" -> dict of losses. Its checkpoints hold the recognizer,
    for a detector of this project, and for MODEL.CLIP.IMAGE_WEIGHTS.

    Args:
        recognizer: the student. teacher: the CLIP that it starts from. localizer: proposes regions.
        pool: the concepts. num_regions: of the localizer, the best. num_sampled: of these, at random, of each image.
        temperature: τ. threshold: see `kept_regions`. pixels: makes inputs of samples.

    Source: RegionCLIP, Zhong et al. (CVPR 2022), in the form of its release.
    """

    pool: Tensor

    @configurable
    def __init__(
        self,
        *,
        recognizer: Recognizer,
        teacher: FrozenClip,
        localizer: Localizer,
        pool: Vocabulary,
        num_regions: int,
        num_sampled: int,
        temperature: float,
        threshold: float,
        pixels: Pixels,
    ) -> None:
        super().__init__()
        self.recognizer, self.teacher, self.localizer = recognizer, teacher, localizer
        self.pixels, self.num_regions, self.num_sampled = pixels, num_regions, num_sampled
        self.temperature, self.threshold = temperature, threshold
        self.register_buffer("pool", pool.embeddings, persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        own = cfg.MODEL.REGIONCLIP
        _refuse_bad_values(cfg)
        pool = read_vocabulary(own.PRETRAINING.POOL, key=POOL)
        clip = clip_from_config(cfg)
        if clip.width != pool.width:
            raise ValueError(
                f"{own.PRETRAINING.POOL} ({POOL}) has width {pool.width}, and {cfg.MODEL.CLIP.ARCHITECTURE} "
                f"(MODEL.CLIP) gives {clip.width}: build the pool with this CLIP, tools/build_vocabulary.py."
            )
        require_words_of(clip, pool)
        require_pixels_of(clip, cfg)
        localizer = localizer_from_config(cfg)
        assert localizer is not None  # as `_refuse_bad_values` says
        return {
            "recognizer": Recognizer(clip_from_config(cfg), cfg.MODEL.BACKBONE.FREEZE_AT),
            "teacher": FrozenClip(clip),
            "localizer": localizer,
            "pool": pool,
            "num_regions": own.PRETRAINING.REGIONS,
            "num_sampled": own.PRETRAINING.SAMPLED,
            "temperature": own.TEMPERATURE,
            "threshold": own.PRETRAINING.THRESHOLD,
            "pixels": Pixels(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
        }

    @property
    def device(self) -> torch.device:
        return self.pixels.mean.device

    def forward(self, batched_inputs: list[dict[str, Any]], num_objects: float | Tensor | None = None) -> Any:
        """See the class; no loss of it is divided by `num_objects`."""
        images = self.pixels(batched_inputs)
        boxes = self._regions(batched_inputs)
        captions = [given["caption"] for given in batched_inputs]
        teach = beside(lambda: self._taught(images, boxes, captions), [images.tensor], "CLIP")
        regions, whole = self._embeddings(images, boxes)
        taught, texts = teach()
        losses = self._region_losses(regions, taught)
        pairs = gather_rows(whole), gather_rows(texts)
        return {**losses, "loss_image_text": image_text_loss(*pairs, self.temperature)}

    def _embeddings(self, images: ImageList, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(N, E) of the regions, and (B, E) of the whole images, padding included, as in the release."""
        height, width = images.tensor.shape[-2:]
        canvas = images.tensor.new_tensor([[0.0, 0.0, width, height]])
        asked = [torch.cat([of_image, canvas]) for of_image in boxes]
        features = self.recognizer(images.tensor)
        rows = self.recognizer.pool(self.recognizer.features_of(features, asked))
        parts = rows.split([len(each) for each in asked])
        return torch.cat([part[:-1] for part in parts]), torch.stack([part[-1] for part in parts])

    def _taught(self, images: ImageList, boxes: list[Tensor], captions: list[str]) -> tuple[Tensor, Tensor]:
        rows = self.teacher.regions(images.tensor, *numbered(boxes))
        return rows, self.teacher.captions(captions, self.device)

    def _region_losses(self, regions: Tensor, taught: Tensor) -> dict[str, Tensor]:
        """Of this worker's regions, which are not gathered, as in the release."""
        if not len(regions):
            nothing = regions.sum() * 0
            return {"loss_region_distillation": nothing, "loss_region_contrast": nothing}
        logits, theirs = self._logits(regions), self._logits(taught)
        kept = kept_regions(theirs.softmax(-1), self.threshold)
        record("regions_kept", float(kept.float().mean()))
        logits, theirs = logits[kept], theirs[kept]
        return {
            "loss_region_distillation": distillation_loss(logits, theirs),
            "loss_region_contrast": contrastive_loss(logits, theirs.argmax(-1)),
        }

    def _logits(self, rows: Tensor) -> Tensor:
        """(N, E) -> (N, K) over the pool, in full precision."""
        with torch.autocast(rows.device.type, enabled=False):
            return F.linear(F.normalize(rows.float(), dim=-1), self.pool.float()) / self.temperature

    @torch.no_grad()
    def _regions(self, batched_inputs: list[dict[str, Any]]) -> list[Tensor]:
        """(n, 4) xyxy in pixels of each image, some of the localizer's best at random."""
        return [self._sampled(found) for found in self.localizer(batched_inputs)]

    def _sampled(self, found: Instances) -> Tensor:
        boxes: Tensor = found.proposal_boxes.tensor[: self.num_regions].to(self.device)
        return boxes[torch.randperm(len(boxes))[: self.num_sampled].to(boxes.device)]


def _refuse_bad_values(cfg: CfgNode) -> None:
    own = cfg.MODEL.REGIONCLIP
    if cfg.DATALOADER.TRAIN_STREAM != "ImageText" or cfg.DATASETS.TEST:
        raise ValueError(
            'MODEL.META_ARCHITECTURE "RegionCLIPPretraining" learns from captions and detects nothing: set '
            'DATALOADER.TRAIN_STREAM "ImageText" and DATASETS.TEST ().'
        )
    if own.REGIONS != "Proposals":
        raise ValueError(
            f'MODEL.REGIONCLIP.REGIONS is "{own.REGIONS}", and captions come without boxes: set it to "Proposals".'
        )
    for key in ("REGIONS", "SAMPLED"):
        if own.PRETRAINING[key] < 1:
            raise ValueError(f"MODEL.REGIONCLIP.PRETRAINING.{key} must be at least 1, got {own.PRETRAINING[key]}.")
    if own.TEMPERATURE <= 0:
        raise ValueError(f"MODEL.REGIONCLIP.TEMPERATURE must be above 0, got {own.TEMPERATURE}.")
    if not 0 <= own.PRETRAINING.THRESHOLD < 1:
        raise ValueError(
            f"MODEL.REGIONCLIP.PRETRAINING.THRESHOLD is a probability below 1, got {own.PRETRAINING.THRESHOLD}."
        )
    if not own.PRETRAINING.POOL:
        raise ValueError(f'{POOL} is "": name the embeddings of concepts, made by tools/build_vocabulary.py.')
