"""RegionCLIP: the whole detector. B images, K words, E text width."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor

from dk_detr.language import Clip, clip_from_config, require_words_of, vocabularies_from_config
from dk_detr.meta_arch.masks import require_masks
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector
from dk_detr.structures import Vocabulary
from projects.RegionCLIP.regionclip.heads import RegionHeads, ground_truth
from projects.RegionCLIP.regionclip.localizer import Localizer, localizer_from_config
from projects.RegionCLIP.regionclip.recognizer import Recognizer

Inputs = list[dict[str, Any]]


@META_ARCH_REGISTRY.register()
class RegionCLIP(OpenVocabularyDetector):
    """CLIP's image tower says what the boxes of a localizer show, as it is (zero-shot), or trained on base words.

    Training: list of dicts with "image" (3, h, w) in INPUT.FORMAT, "instances" (gt_boxes, gt_classes indexing
    `train_vocabulary`, gt_masks where masks are on) -> dict of weighted losses. Evaluation: list of dicts with "image"
    and the wanted output "height", "width" -> list of {"instances": Instances(pred_boxes, scores, pred_classes,
    pred_masks where masks are on)}, the classes indexing `vocabulary`. Where the ground truth is recognised, dicts have
    "objects", its boxes in pixels of the image.

    Args:
        recognizer: what becomes of an image. localizer: proposes boxes; None for the ground truth. heads: the rest.
        train_vocabulary: base words. vocabulary: the words to detect; `set_vocabulary` exchanges them.
        pixel_mean, pixel_std: of the recognizer's input.

    Source: RegionCLIP, Zhong et al. (CVPR 2022).
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        recognizer: Recognizer,
        localizer: Localizer | None,
        heads: RegionHeads,
        train_vocabulary: Vocabulary,
        vocabulary: Vocabulary,
        pixel_mean: Any,
        pixel_std: Any,
    ) -> None:
        super().__init__()
        self.recognizer, self.localizer, self.heads = recognizer, localizer, heads
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.register_words(train_vocabulary, vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.MODEL.TRAINING_EXTENSIONS or cfg.MODEL.CALIBRATION:
            raise ValueError(
                'MODEL.META_ARCHITECTURE "RegionCLIP" takes no MODEL.TRAINING_EXTENSIONS and no MODEL.CALIBRATION: no '
                'CLIP teaches it, it is one. Set them to [] and "".'
            )
        train_vocabulary, vocabulary = vocabularies_from_config(cfg)
        clip = clip_from_config(cfg)
        require_words_of(clip, vocabulary)
        require_pixels_of(clip, cfg)
        recognizer = Recognizer(clip, cfg.MODEL.BACKBONE.FREEZE_AT)
        return {
            "recognizer": recognizer,
            "localizer": localizer_from_config(cfg),
            "heads": RegionHeads(cfg, recognizer, num_words=len(train_vocabulary)),
            "train_vocabulary": train_vocabulary,
            "vocabulary": vocabulary,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    @property
    def words_classifier(self) -> Any:
        """See `OpenVocabularyDetector`."""
        return self.heads.words

    @classmethod
    def detects_untrained(cls, cfg: CfgNode) -> bool:
        """See `OpenVocabularyDetector`: CLIP alone, where nothing refines boxes or draws masks."""
        return cfg.MODEL.REGIONCLIP.BOXES == "AsProposed" and not cfg.MODEL.MASK_ON

    @property
    def looks_at_objects(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return self.localizer is None

    @property
    def proposes(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return self.localizer is not None

    def forward(self, batched_inputs: Inputs, num_objects: float | Tensor | None = None) -> Any:
        """See the class; no loss of it is divided by `num_objects`."""
        return self.losses(batched_inputs) if self.training else self.detect(batched_inputs)

    def losses(self, batched_inputs: Inputs) -> dict[str, Tensor]:
        """The weighted losses of one training step."""
        objects = self.targets(batched_inputs)
        if self.localizer is None:
            proposals = [_rated(ground_truth(one.gt_boxes, one.image_size)) for one in objects]
        else:
            with torch.no_grad():
                proposals = [one.to(self.device) for one in self.localizer(batched_inputs)]
        features = self.recognizer(self.preprocess(batched_inputs).tensor)
        return self.heads.losses(self.recognizer, features, proposals, objects, self.train_text)

    @torch.no_grad()
    def detect(self, batched_inputs: Inputs) -> list[dict[str, Any]]:
        """Detections in the size that each input asks for."""
        return [self._detect(given)[0] for given in batched_inputs]  # alone, an image sees no padding

    @torch.no_grad()
    def detect_with_proposals(self, batched_inputs: Inputs) -> list[dict[str, Any]]:
        """See `OpenVocabularyDetector`."""
        found = [self._detect(given) for given in batched_inputs]
        return [{**output, "proposals": _of_output(given, one)} for given, (output, one) in zip(batched_inputs, found)]

    @torch.no_grad()
    def propose(self, batched_inputs: Inputs, limit: int | None = None) -> list[Instances]:
        """See `OpenVocabularyDetector`."""
        if self.localizer is None:
            return super().propose(batched_inputs, limit)
        return [_of_output(given, self.localizer([given])[0])[:limit] for given in batched_inputs]

    def _detect(self, given: dict[str, Any]) -> tuple[dict[str, Any], Instances]:
        """Of one image: the output, and the regions in the frame of the network's input."""
        regions = self._regions(given)
        features = self.recognizer(self.preprocess([given]).tensor)
        (found,) = self.heads.detect(self.recognizer, features, [regions], self.text)
        return {"instances": _of_output(given, found)}, regions

    def _regions(self, given: dict[str, Any]) -> Instances:
        if self.localizer is not None:
            return self.localizer([given])[0].to(self.device)
        if "objects" not in given:
            raise ValueError(
                'MODEL.REGIONCLIP.REGIONS "GroundTruth" recognises the objects of a data set, and image '
                f'{given.get("file_name", "?")} comes without: choose "Proposals" for pictures of your own.'
            )
        return ground_truth(given["objects"].to(self.device), tuple(given["image"].shape[-2:]))

    def preprocess(self, batched_inputs: Inputs) -> ImageList:
        """Normalise, move to the device, pad with zeros on the right and below."""
        pixels = [(given["image"].to(self.device) - self.pixel_mean) / self.pixel_std for given in batched_inputs]
        return ImageList.from_tensors(pixels)

    def targets(self, batched_inputs: Inputs) -> list[Instances]:
        """Ground truth on the device. Raises ValueError for a class outside the training vocabulary, and where masks
        are wanted and there are none."""
        for given in batched_inputs:
            objects, name, number = given["instances"], given.get("file_name", "?"), len(self.train_vocabulary)
            unknown = objects.gt_classes[(objects.gt_classes < 0) | (objects.gt_classes >= number)].tolist()
            if unknown:
                raise ValueError(
                    f"Image {name}: class {unknown[0]} is not among the {number} words of training; use dk_detr's "
                    "mapper (dk_detr.data)."
                )
            if self.heads.mask_head is not None:
                require_masks(objects, name)
        return [given["instances"].to(self.device) for given in batched_inputs]


def _rated(proposals: Instances) -> Instances:
    """Detectron2 adds the objects to proposals as such of great objectness."""
    boxes: Boxes = proposals.proposal_boxes
    proposals.objectness_logits = boxes.tensor.new_zeros(len(boxes))
    return proposals


def _of_output(given: dict[str, Any], found: Instances) -> Instances:
    """In the size that an input asks for."""
    height, width = found.image_size
    scaled: Instances = detector_postprocess(found, given.get("height", height), given.get("width", width))
    return scaled


def require_pixels_of(clip: Clip, cfg: CfgNode) -> None:
    """Raises ValueError for images that are not normalised as CLIP's input: it would recognise next to nothing."""
    wanted = {"PIXEL_MEAN": clip.mean, "PIXEL_STD": clip.std}
    for key, values in wanted.items():
        here, there = list(cfg.MODEL[key]), [round(255 * value, 3) for value in values]
        if cfg.INPUT.FORMAT != "RGB" or max(abs(a - b) for a, b in zip(here, there)) > 0.5:
            raise ValueError(
                f'{cfg.MODEL.CLIP.ARCHITECTURE} (MODEL.CLIP) takes images in INPUT.FORMAT "RGB" with MODEL.{key} '
                f'{there}; got "{cfg.INPUT.FORMAT}" and {here}.'
            )
