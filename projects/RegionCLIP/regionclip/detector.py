"""RegionCLIP: the whole detector. B images, K words, E text width."""

from abc import abstractmethod
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor

from dk_detr.distillation import CLIPCrops
from dk_detr.evaluation import NAMED
from dk_detr.language import clip_from_config, require_words_of, vocabularies_from_config
from dk_detr.language.from_config import require_pixels_of
from dk_detr.layers import to_normalized_cxcywh
from dk_detr.meta_arch.masks import require_masks
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector, refuse_unknown_classes
from dk_detr.structures import Regions, Vocabulary
from projects.RegionCLIP.regionclip.heads import Naming, RegionHeads, Words, ground_truth, refuse_bad_values
from projects.RegionCLIP.regionclip.localizer import Localizer, localizer_from_config
from projects.RegionCLIP.regionclip.recognizer import Pixels, Recognizer

Inputs = list[dict[str, Any]]


class LocalizedDetector(OpenVocabularyDetector):
    """Names the boxes of a localizer, or of the ground truth.

    Evaluation: list of dicts with "image" and the wanted output "height", "width" -> list of {"instances":
    Instances(pred_boxes, scores, pred_classes, pred_masks where masks are on)}, classes indexing `vocabulary`. Where
    the ground truth is named, dicts have "objects", its boxes in pixels of the image, and outputs "named", the word of
    each.

    Args:
        localizer: proposes boxes; None for the ground truth. pixels: makes inputs of samples. words: the classifier.
        train_vocabulary: base words. vocabulary: the words to detect; `set_vocabulary` exchanges them.
    """

    def __init__(
        self,
        localizer: Localizer | None,
        pixels: Pixels,
        words: Words,
        train_vocabulary: Vocabulary,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__()
        self.localizer, self.pixels, self.classifier = localizer, pixels, words
        self.register_words(train_vocabulary, vocabulary)

    @property
    def device(self) -> torch.device:
        return self.pixels.mean.device

    @property
    def looks_at_objects(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return self.localizer is None

    @property
    def proposes(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return self.localizer is not None

    @property
    def parts_left_out(self) -> dict[str, str]:
        """See `OpenVocabularyDetector`."""
        return {} if self.localizer else {"localizer.": 'MODEL.REGIONCLIP.REGIONS "GroundTruth"'}

    @abstractmethod
    def name(self, given: dict[str, Any], regions: Instances) -> tuple[Instances, Tensor]:
        """Detections of an image among its regions, both in the frame of the sample; and the word of each region."""

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
        """Of one image: the output, and the regions in the frame of the sample."""
        regions = self._regions(given)
        found, named = self.name(given, regions)
        output = {"instances": _of_output(given, found)}
        return {**output, NAMED: named} if self.looks_at_objects else output, regions

    def _regions(self, given: dict[str, Any]) -> Instances:
        if self.localizer is not None:
            return self.localizer([given])[0].to(self.device)
        if "objects" not in given:
            raise ValueError(
                'MODEL.REGIONCLIP.REGIONS "GroundTruth" recognises the objects of a data set, and image '
                f'{given.get("file_name", "?")} comes without: choose "Proposals" for pictures of your own.'
            )
        return ground_truth(given["objects"].to(self.device), tuple(given["image"].shape[-2:]))


@META_ARCH_REGISTRY.register()
class RegionCLIP(LocalizedDetector):
    """CLIP's image tower says what the boxes of a localizer show, as it is (zero-shot), or trained on base words.

    Training: list of dicts with "image" (3, h, w) in INPUT.FORMAT, "instances" (gt_boxes, gt_classes indexing
    `train_vocabulary`, gt_masks where masks are on) -> dict of weighted losses. Evaluation: see `LocalizedDetector`.

    Args:
        recognizer: what becomes of an image. heads: the rest. others: see `LocalizedDetector`.

    Source: RegionCLIP, Zhong et al. (CVPR 2022).
    """

    @configurable
    def __init__(self, *, recognizer: Recognizer, heads: RegionHeads, **others: Any) -> None:
        super().__init__(words=heads.naming.words, **others)
        self.recognizer, self.heads = recognizer, heads

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        parts = _parts_from_config(cfg)
        clip = clip_from_config(cfg)
        require_words_of(clip, parts["vocabulary"])
        require_pixels_of(clip, cfg)
        recognizer = Recognizer(clip, cfg.MODEL.BACKBONE.FREEZE_AT)
        heads = RegionHeads(cfg, recognizer, num_words=len(parts["train_vocabulary"]))
        return {**parts, "recognizer": recognizer, "heads": heads}

    @classmethod
    def detects_untrained(cls, cfg: CfgNode) -> bool:
        """See `OpenVocabularyDetector`: CLIP alone, where nothing refines boxes or draws masks."""
        return cfg.MODEL.REGIONCLIP.BOXES == "AsProposed" and not cfg.MODEL.MASK_ON

    @property
    def parts_left_out(self) -> dict[str, str]:
        """See `OpenVocabularyDetector`."""
        masks = {} if self.heads.mask_head else {"heads.mask_head.": "MODEL.MASK_ON False"}
        return {**super().parts_left_out, **masks}

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
        features = self.recognizer(self.pixels(batched_inputs).tensor)
        return self.heads.losses(self.recognizer, features, proposals, objects, self.train_text)

    def name(self, given: dict[str, Any], regions: Instances) -> tuple[Instances, Tensor]:
        """See `LocalizedDetector`."""
        features = self.recognizer(self.pixels([given]).tensor)
        return self.heads.detect(self.recognizer, features, regions, self.text)

    def targets(self, batched_inputs: Inputs) -> list[Instances]:
        """Ground truth on the device. Raises ValueError for a class outside the training vocabulary, and where masks
        are wanted and there are none."""
        for given in batched_inputs:
            if "instances" not in given:
                raise ValueError(
                    'MODEL.META_ARCHITECTURE "RegionCLIP" learns from boxes, and samples come without "instances": set '
                    'DATALOADER.TRAIN_STREAM "Detection", or choose "RegionCLIPPretraining".'
                )
            objects, name = given["instances"], given.get("file_name", "?")
            refuse_unknown_classes(objects.gt_classes, len(self.train_vocabulary), name)
            if self.heads.mask_head is not None:
                require_masks(objects, name)
        return [given["instances"].to(self.device) for given in batched_inputs]


@META_ARCH_REGISTRY.register()
class CLIPOnCrops(LocalizedDetector):
    """Any CLIP says what the boxes of a localizer show, each cut out of the image: what ViLD starts from. Nothing of it
    trains.

    Args:
        clip: looks at crops. naming: from embeddings to detections. others: see `LocalizedDetector`.

    Source: ViLD (ICLR 2022), "CLIP on cropped regions".
    """

    @configurable
    def __init__(self, *, clip: CLIPCrops, naming: Naming, **others: Any) -> None:
        super().__init__(words=naming.words, **others)
        self.clip, self.naming = clip, naming

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.MODEL.REGIONCLIP.BOXES != "AsProposed" or cfg.MODEL.MASK_ON:
            raise ValueError(
                'MODEL.META_ARCHITECTURE "CLIPOnCrops" trains nothing that refines boxes or draws masks: set '
                'MODEL.REGIONCLIP.BOXES "AsProposed" and MODEL.MASK_ON False.'
            )
        parts = _parts_from_config(cfg)
        refuse_bad_values(cfg)
        clip = CLIPCrops(cfg, parts["vocabulary"])
        return {**parts, "clip": clip, "naming": Naming(cfg, width=clip.width)}

    @classmethod
    def detects_untrained(cls, cfg: CfgNode) -> bool:
        """See `OpenVocabularyDetector`."""
        return True

    def forward(self, batched_inputs: Inputs, num_objects: float | Tensor | None = None) -> Any:
        """See the class. Raises ValueError in training."""
        if self.training:
            raise ValueError('MODEL.META_ARCHITECTURE "CLIPOnCrops" has nothing to train: evaluate it, --eval-only.')
        return self.detect(batched_inputs)

    def name(self, given: dict[str, Any], regions: Instances) -> tuple[Instances, Tensor]:
        """See `LocalizedDetector`."""
        images, boxes = self.pixels([given]), regions.proposal_boxes.tensor
        number = torch.arange(len(boxes), device=boxes.device)
        asked = Regions(torch.zeros_like(number), number, to_normalized_cxcywh(boxes, regions.image_size))
        rows = self.clip(images.tensor, images.image_sizes, asked)
        return self.naming(regions, boxes, rows, self.text)


def _parts_from_config(cfg: CfgNode) -> dict[str, Any]:
    """What all such detectors have."""
    if cfg.MODEL.TRAINING_EXTENSIONS or cfg.MODEL.CALIBRATION:
        raise ValueError(
            f'MODEL.META_ARCHITECTURE "{cfg.MODEL.META_ARCHITECTURE}" takes no MODEL.TRAINING_EXTENSIONS and no '
            'MODEL.CALIBRATION: no CLIP teaches it, it is one. Set them to [] and "".'
        )
    train_vocabulary, vocabulary = vocabularies_from_config(cfg)
    return {
        "localizer": localizer_from_config(cfg),
        "pixels": Pixels(cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD),
        "train_vocabulary": train_vocabulary,
        "vocabulary": vocabulary,
    }


def _rated(proposals: Instances) -> Instances:
    """With objectness: Detectron2 adds the objects to proposals, with theirs, and would miss it here."""
    boxes: Boxes = proposals.proposal_boxes
    proposals.objectness_logits = boxes.tensor.new_zeros(len(boxes))
    return proposals


def _of_output(given: dict[str, Any], found: Instances) -> Instances:
    """In the size that an input asks for."""
    height, width = found.image_size
    scaled: Instances = detector_postprocess(found, given.get("height", height), given.get("width", width))
    return scaled
