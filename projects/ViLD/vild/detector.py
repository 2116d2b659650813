"""ViLD: the whole detector. B images, K words, E text width."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone, build_proposal_generator
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Instances
from torch import Tensor

from dk_detr.distillation import anneal_from_config, build_slots, build_teacher
from dk_detr.language import vocabularies_from_config
from dk_detr.meta_arch.masks import require_masks
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector, refuse_unknown_classes
from dk_detr.structures import Vocabulary
from dk_detr.utils import choose, require
from projects.ViLD.vild.forms import FORMS
from projects.ViLD.vild.roi_heads import ViLDHeads
from projects.ViLD.vild.teaching import Teaching


@META_ARCH_REGISTRY.register()
class ViLD(OpenVocabularyDetector, GeneralizedRCNN):
    """Mask R-CNN whose classes are words, taught by CLIP.

    Training: list of dicts with "image" (3, h, w) in INPUT.FORMAT, "instances" (gt_boxes, gt_classes indexing
    `train_vocabulary`, gt_masks where masks are on) -> dict of weighted losses. Evaluation: list of dicts with "image"
    and the wanted output "height", "width" -> list of {"instances": Instances(pred_boxes, scores, pred_classes,
    pred_masks where masks are on)}, the classes indexing `vocabulary`.

    Args:
        teaching: of the teacher; None for ViLD-text, and for detection.
        train_vocabulary: base words. vocabulary: the words to detect; `set_vocabulary` exchanges them.
        parts: Detectron2's.
    """

    backbone: Any
    proposal_generator: Any
    roi_heads: Any
    preprocess_image: Any
    _postprocess: Any

    @configurable
    def __init__(
        self, *, teaching: Teaching | None, train_vocabulary: Vocabulary, vocabulary: Vocabulary, **parts: Any
    ) -> None:
        super().__init__(**parts)
        self.teaching = teaching
        self.register_words(train_vocabulary, vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        if cfg.MODEL.CALIBRATION:
            raise ValueError('MODEL.CALIBRATION is for a sigmoid, and ViLD has a softmax: set MODEL.CALIBRATION "".')
        anneal = anneal_from_config(cfg)
        train_vocabulary, vocabulary = vocabularies_from_config(cfg)
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shape),
            "roi_heads": ViLDHeads(cfg, shape, num_words=len(train_vocabulary), width=vocabulary.width, anneal=anneal),
            "teaching": _teaching_from_config(cfg, vocabulary),
            "train_vocabulary": train_vocabulary,
            "vocabulary": vocabulary,
            "input_format": cfg.INPUT.FORMAT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def words_classifier(self) -> Any:
        """See `OpenVocabularyDetector`."""
        return self.roi_heads.box_predictor.classifier

    def is_novel(self, vocabulary: Vocabulary) -> Tensor:
        """Base is what was trained, however it is spelt; words of one's own are novel even where their vocabulary does
        not say so."""
        return super().is_novel(vocabulary) | vocabulary.novel.cpu()

    def forward(self, batched_inputs: list[dict[str, Any]], num_objects: float | Tensor | None = None) -> Any:
        """See the class; no loss of it is divided by `num_objects`."""
        return self.losses(batched_inputs) if self.training else self.detect(batched_inputs)

    def losses(self, batched_inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The weighted losses of one training step."""
        images = self.preprocess_image(batched_inputs)
        objects = self.targets(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, objects)
        taught = self._taught(images, batched_inputs, proposals, objects)
        return {**losses, **self.roi_heads.losses(features, proposals, objects, self.train_text, taught)}

    def _taught(self, images: Any, batched_inputs: list[dict[str, Any]], proposals: Any, objects: Any) -> Any:
        if self.teaching is not None:
            return self.teaching(images, batched_inputs, proposals, objects)
        if self.roi_heads.form.learns_image_embeddings:
            raise ValueError(
                'MODEL.VILD.FORM learns from a teacher: name "Distillation" in MODEL.TRAINING_EXTENSIONS and '
                '"embedding_l1" in MODEL.KD.TERMS, or choose the form "ViLD-text".'
            )
        return None

    @torch.no_grad()
    def detect(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detections in the size that each input asks for. Raises FloatingPointError for broken weights."""
        if _differ_in_size(batched_inputs):
            return [self.detect([given])[0] for given in batched_inputs]
        first_stage = self._first_stage(batched_inputs)
        return self._second_stage(*first_stage, batched_inputs)

    proposes = True  # type: ignore[assignment]

    @torch.no_grad()
    def detect_with_proposals(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """See `OpenVocabularyDetector`."""
        if _differ_in_size(batched_inputs):
            return [self.detect_with_proposals([given])[0] for given in batched_inputs]
        _, proposals, sizes = first_stage = self._first_stage(batched_inputs)
        outputs = self._second_stage(*first_stage, batched_inputs)
        proposed = self._postprocess(proposals, batched_inputs, sizes)
        return [{**output, "proposals": one["instances"]} for output, one in zip(outputs, proposed)]

    @torch.no_grad()
    def propose(self, batched_inputs: list[dict[str, Any]], limit: int | None = None) -> list[Instances]:
        """See `OpenVocabularyDetector`: what is left after NMS, at most MODEL.RPN.POST_NMS_TOPK_TEST."""
        if _differ_in_size(batched_inputs):
            return [self.propose([given], limit)[0] for given in batched_inputs]
        _, proposals, sizes = self._first_stage(batched_inputs)
        return [output["instances"][:limit] for output in self._postprocess(proposals, batched_inputs, sizes)]

    def _second_stage(
        self, features: dict[str, Tensor], proposals: list[Instances], sizes: Any, batched_inputs: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        found = self.roi_heads.detect(features, proposals, self.text, self.novel)
        outputs: list[dict[str, Any]] = self._postprocess(found, batched_inputs, sizes)
        return outputs

    def _first_stage(self, batched_inputs: list[dict[str, Any]]) -> tuple[dict[str, Tensor], list[Instances], Any]:
        """Features, proposals, and the sizes of the images in the network's input."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        _require_finite(features, batched_inputs)
        proposals, _ = self.proposal_generator(images, features, None)
        return features, proposals, images.image_sizes

    def targets(self, batched_inputs: list[dict[str, Any]]) -> list[Instances]:
        """Ground truth on the device. Raises ValueError for a class outside the training vocabulary, and where masks
        are wanted and there are none."""
        for given in batched_inputs:
            objects, name = given["instances"], given.get("file_name", "?")
            refuse_unknown_classes(objects.gt_classes, len(self.train_vocabulary), name)
            if self.roi_heads.mask_on:
                require_masks(objects, name)
        return [given["instances"].to(self.device) for given in batched_inputs]


def _differ_in_size(batched_inputs: list[dict[str, Any]]) -> bool:
    """Then one would be padded, and convolutions see padding. Alone, an image has the same detections as in any
    company."""
    return len({tuple(given["image"].shape) for given in batched_inputs}) > 1


def _require_finite(features: dict[str, Tensor], batched_inputs: list[dict[str, Any]]) -> None:
    """Detectron2's first stage would leave out what is no number, and nothing would be found in silence."""
    if not all(bool(level.isfinite().all()) for level in features.values()):
        raise FloatingPointError(
            f"Image {batched_inputs[0].get('file_name', '?')}: what the backbone sees is not finite; the weights are "
            "broken. Take an earlier checkpoint, and train with a lower SOLVER.BASE_LR."
        )


def _teaching_from_config(cfg: CfgNode, vocabulary: Vocabulary) -> Teaching | None:
    kd, form = cfg.MODEL.KD, cfg.MODEL.VILD.FORM
    for name in cfg.MODEL.TRAINING_EXTENSIONS:
        require("MODEL.TRAINING_EXTENSIONS", name, ["Distillation"])
    if not cfg.MODEL.TRAINING_EXTENSIONS:
        return None
    if list(kd.TERMS) != ["embedding_l1"] or not choose(FORMS, "MODEL.VILD.FORM", form).learns_image_embeddings:
        raise ValueError(
            f'MODEL.KD.TERMS is {list(kd.TERMS)} with MODEL.VILD.FORM "{form}"; wanted ["embedding_l1"] for all '
            'forms but "ViLD-text", which takes "Distillation" out of MODEL.TRAINING_EXTENSIONS.'
        )
    if "unmatched" in kd.SLOT_FILTERS:
        raise ValueError(
            'ViLD teaches regions whether they match an object or not: take "unmatched" out of MODEL.KD.SLOT_FILTERS.'
        )
    return Teaching(build_teacher(cfg, vocabulary), build_slots(cfg))
