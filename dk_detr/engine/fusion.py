"""Fusion: CLIP has a say in what detections show, at test. N detections, K words, E text width."""

import logging
import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.distillation.teachers import CLIPCrops, live_teacher
from dk_detr.language import is_closed
from dk_detr.layers import to_normalized_cxcywh
from dk_detr.structures import Regions

logger = logging.getLogger(__name__)


class WithClip(nn.Module):
    """A detector whose scores are fused with CLIP's of the crops of its boxes: score^(1-w) · p^w, p being the share of
    the word in a softmax over all that are asked for.

    Args:
        detector: of any words, or what stands for one. words: where its vocabulary is; the detector, mostly.
        clip: looks at crops. base, novel: w of words that were trained and of others. temperature: of the softmax.
        pixel_mean, pixel_std: how the detector's input is normalised.

    Source: ViLD (ICLR 2022), §3.2, of a text head and CLIP on crops.
    """

    def __init__(
        self,
        detector: nn.Module,
        words: Any,
        clip: CLIPCrops,
        base: float,
        novel: float,
        temperature: float,
        pixel_mean: Any,
        pixel_std: Any,
    ) -> None:
        super().__init__()
        self.detector, self.clip = detector, clip
        self._words = (words,)  # as a tuple, so that it is no second child
        self.base, self.novel, self.temperature = base, novel, temperature
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (pixel_mean, pixel_std))
        self.seconds, self.num_images = 0.0, 0
        self.training = detector.training  # what Detectron2 puts back after it has evaluated

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detect, then ask CLIP."""
        outputs = self.detector(batched_inputs)
        start = time.perf_counter()
        fused = [
            {**output, "instances": self._fused(given, output["instances"])}
            for given, output in zip(batched_inputs, outputs)
        ]
        self.seconds, self.num_images = self.seconds + time.perf_counter() - start, self.num_images + len(fused)
        return fused

    def report(self) -> None:
        """Log what it took."""
        if self.num_images:
            logger.info(f"CLIP (MODEL.TEST_FUSION) took {self.seconds / self.num_images:.3f} s an image.")

    def _fused(self, given: dict[str, Any], found: Instances) -> Instances:
        if not len(found):
            return found
        (words,), word = self._words, found.pred_classes
        weight = torch.where(words.novel[word], self.novel, self.base)
        boxes, which = found.pred_boxes.tensor.unique(dim=0, return_inverse=True)  # of several words, seen once
        rows = self._seen(given, to_normalized_cxcywh(boxes, found.image_size))
        share = (F.linear(rows, words.text.float()) / self.temperature).softmax(-1)[which, word]
        scores = found.scores ** (1 - weight) * share.to(found.scores) ** weight
        best, order = scores.sort(descending=True, stable=True)
        fused: Instances = found[order]
        fused.scores = best
        return fused

    def _seen(self, given: dict[str, Any], boxes: Tensor) -> Tensor:
        """(n, E) unit rows of boxes cxcywh in [0, 1]."""
        image, number = given["image"].to(boxes.device), torch.arange(len(boxes), device=boxes.device)
        pixels = (image - self.mean.to(image.device)) / self.std.to(image.device)
        regions = Regions(torch.zeros_like(number), number, boxes)
        rows: Tensor = self.clip(pixels[None], [(image.shape[-2], image.shape[-1])], regions)
        return rows.float()


def with_clip(cfg: CfgNode, asked: nn.Module, detector: Any) -> nn.Module:
    """What is asked for detections, fused with CLIP's scores where MODEL.TEST_FUSION says so.

    Args:
        asked: the detector, or what stands for it. detector: the detector itself.

    Raises: ValueError for weights outside of [0, 1], and for a detector that knows no text embeddings.
    """
    fusion = cfg.MODEL.TEST_FUSION
    for key in ("BASE", "NOVEL"):
        if not 0 <= fusion[key] <= 1:
            raise ValueError(f"MODEL.TEST_FUSION.{key} is a weight in [0, 1], got {fusion[key]}.")
    if not fusion.BASE and not fusion.NOVEL:
        return asked
    if fusion.TEMPERATURE <= 0:
        raise ValueError(f"MODEL.TEST_FUSION.TEMPERATURE must be above 0, got {fusion.TEMPERATURE}.")
    if cfg.MODEL.META_ARCHITECTURE == "DETR" and is_closed(cfg):
        raise ValueError(
            f'MODEL.TEST_FUSION asks CLIP for words, and MODEL.DETR.CLASSIFIER.NAME "{cfg.MODEL.DETR.CLASSIFIER.NAME}" '
            "knows no text embeddings: set MODEL.TEST_FUSION.BASE and NOVEL to 0.0."
        )
    clip = live_teacher(cfg, detector.vocabulary)
    pixels = cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    return WithClip(asked, detector, clip, fusion.BASE, fusion.NOVEL, fusion.TEMPERATURE, *pixels)
