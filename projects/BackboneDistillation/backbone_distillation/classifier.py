"""ImageClassifier: a backbone that says what a box shows. B crops, C channels, E width of embeddings, K words."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.evaluation import NAMED
from dk_detr.language import vocabularies_from_config
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector
from dk_detr.modeling import CosineText, Linear
from dk_detr.structures import Vocabulary
from dk_detr.utils import choose, require
from projects.BackboneDistillation.backbone_distillation.crops import cut
from projects.BackboneDistillation.backbone_distillation.seen import Seen
from projects.BackboneDistillation.backbone_distillation.teacher import CLIP, Teacher, learns_words, teacher_from_config
from projects.BackboneDistillation.backbone_distillation.terms import ACTIVATIONS, TERMS, Term
from projects.BackboneDistillation.backbone_distillation.terms.term import require_positive

Inputs = list[dict[str, Any]]
KEY = "MODEL.BACKBONE_KD"
PORTION = 64  # crops that are looked at together in evaluation
CLASSIFIERS: dict[str, Any] = {"CosineText": CosineText, "Linear": Linear}


class Head(nn.Module):
    """From a map to words: pooled, projected to an embedding, classified.

    Args:
        channels: C. width: E. classifier: of rows of width E.

    Attributes:
        handed_over: whether a teacher gave the classifier, which then stays, whatever weights say.
    """

    def __init__(self, channels: int, width: int, classifier: CosineText | Linear) -> None:
        super().__init__()
        self.embedding, self.classifier = nn.Linear(channels, width), classifier
        self.handed_over = False

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        if self.handed_over:
            own = self.classifier.state_dict()
            state_dict.update({f"{prefix}classifier.{name}": tensor for name, tensor in own.items()})
        super()._load_from_state_dict(state_dict, prefix, *others)

    def forward(self, features: Tensor, text: Tensor) -> Seen:
        """(B, C, h, w) and (K, E') rows of words -> what is seen."""
        embeddings = self.embedding(features.mean((-2, -1)))

        @cache  # several terms ask for the same
        def of_cells(number: int) -> Tensor:
            pooled = F.adaptive_avg_pool2d(features, number).flatten(2).transpose(1, 2)
            return self._logits(self.embedding(pooled), text)

        return Seen(embeddings, self._logits(embeddings, text), of_cells)

    def _logits(self, embeddings: Tensor, text: Tensor) -> Tensor:
        return self.classifier.score(self.classifier.project(embeddings, -1), text)


@META_ARCH_REGISTRY.register()
class ImageClassifier(OpenVocabularyDetector):
    """Learns words of crops from labels, and from a teacher.

    Training: list of dicts with "image" (3, S, S) and "label", an index of `train_vocabulary` -> dict of weighted
    losses. Evaluation: list of dicts with "image" (3, h, w) and "objects", boxes in its pixels -> list of dicts with
    "named" (n,) and "instances", these boxes with their likeliest word.

    Args:
        backbone: that is learnt. feature: its map that is pooled. head: the rest. teacher: None for labels alone.
        terms: what is taken over. label_weight, activation, crop: see MODEL.BACKBONE_KD. pixel_mean, pixel_std: of the
            input. train_vocabulary, vocabulary: words of training, and to be named.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        feature: str,
        head: Head,
        teacher: Teacher | None,
        terms: Sequence[Term],
        label_weight: float,
        activation: str,
        crop: tuple[int, float],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        train_vocabulary: Vocabulary,
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__()
        self.backbone, self.feature, self.head = backbone, feature, head
        self.teacher, self.terms = teacher, list(terms)
        self.label_weight, self.activation, self.crop = label_weight, activation, crop
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.register_words(train_vocabulary, vocabulary)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        own = cfg.MODEL.BACKBONE_KD
        refuse_bad_values(cfg)
        train_vocabulary, vocabulary = vocabularies_from_config(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        feature = own.FEATURE or list(shapes)[-1]
        require(f"{KEY}.FEATURE", feature, list(shapes))
        head = Head(shapes[feature].channels, own.EMBEDDING, _classifier(cfg, vocabulary.width))
        terms = terms_from_config(cfg)
        teacher = teacher_from_config(cfg, train_vocabulary, terms) if terms else None
        if teacher is not None and not learns_words(own.LABEL_WEIGHT, terms):
            teacher.hand_over(head.classifier, train_vocabulary)
            head.handed_over = True
        return {
            "backbone": backbone,
            "feature": feature,
            "head": head,
            "teacher": teacher,
            "terms": terms,
            "label_weight": own.LABEL_WEIGHT,
            "activation": own.ACTIVATION,
            "crop": (own.CROP_SIDE, own.CROP_CONTEXT),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "train_vocabulary": train_vocabulary,
            "vocabulary": vocabulary,
        }

    @property
    def words_classifier(self) -> Any:
        """See `OpenVocabularyDetector`."""
        return self.head.classifier

    @classmethod
    def only_in_training(cls, cfg: CfgNode) -> dict[str, Any]:
        """See `OpenVocabularyDetector`: the teacher."""
        return {f"{KEY}.TERMS": [], f"{KEY}.LABEL_WEIGHT": 1.0}

    @property
    def looks_at_objects(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return True

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Inputs, num_objects: float | Tensor | None = None) -> Any:
        """See the class; no loss of it is divided by `num_objects`."""
        return self.losses(batched_inputs) if self.training else self.name_objects(batched_inputs)

    def see(self, crops: Tensor, text: Tensor) -> Seen:
        """Crops (B, 3, S, S) in [0, 255], in INPUT.FORMAT, and rows of words -> what is seen."""
        seen: Seen = self.head(self.backbone((crops - self.pixel_mean) / self.pixel_std)[self.feature], text)
        return seen

    def losses(self, batched_inputs: Inputs) -> dict[str, Tensor]:
        """The weighted losses of one training step."""
        crops = torch.stack([given["image"] for given in batched_inputs]).to(self.device)
        seen, losses = self.see(crops, self.train_text), {}
        if self.label_weight:
            labels = torch.tensor([given["label"] for given in batched_inputs], device=self.device)
            losses["loss_labels"] = self.label_weight * label_loss(seen.logits, labels, self.activation)
        if self.teacher is not None:
            theirs = self.teacher.see(crops)
            for term in self.terms:
                losses |= term(seen, theirs)
        return losses

    @torch.no_grad()
    def name_objects(self, batched_inputs: Inputs) -> list[dict[str, Any]]:
        """See the class. Raises ValueError for an image without boxes of objects."""
        return [self._name(given) for given in batched_inputs]

    def _name(self, given: dict[str, Any]) -> dict[str, Any]:
        if "objects" not in given:
            raise ValueError(
                'MODEL.META_ARCHITECTURE "ImageClassifier" names boxes that are given, and image '
                f"{given.get('file_name', '?')} comes without. Start a detector from its backbone."
            )
        image, boxes = given["image"].to(self.device), given["objects"].tensor
        found = Instances(tuple(image.shape[-2:]), pred_boxes=Boxes(boxes.to(self.device, copy=True)))
        found.scores, found.pred_classes = self._likeliest(image, boxes)
        height, width = found.image_size
        scaled = detector_postprocess(found, given.get("height", height), given.get("width", width))
        return {"instances": scaled, NAMED: found.pred_classes}

    def _likeliest(self, image: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        if not len(boxes):
            return boxes.new_zeros(0, device=self.device), torch.zeros(0, dtype=torch.long, device=self.device)
        crops = [cut(image, box, *self.crop) for box in boxes]
        portions = [torch.stack(crops[start : start + PORTION]) for start in range(0, len(crops), PORTION)]
        logits = torch.cat([self.see(portion, self.text).logits for portion in portions])
        shares = logits.softmax(-1) if self.activation == "softmax" else logits.sigmoid()
        return shares.max(-1)  # type: ignore[return-value]


def label_loss(logits: Tensor, labels: Tensor, activation: str) -> Tensor:
    """(B, K) logits and (B,) labels -> cross-entropy; for a sigmoid binary, summed over words. Means over crops."""
    logits = logits.float()
    if activation == "softmax":
        return F.cross_entropy(logits, labels)
    wanted = F.one_hot(labels, logits.shape[1]).float()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1).mean()


def terms_from_config(cfg: CfgNode) -> list[Term]:
    """Those of MODEL.BACKBONE_KD.TERMS. Raises ValueError for unknown ones, and for settings that cannot be."""
    own = cfg.MODEL.BACKBONE_KD
    return [choose(TERMS, f"{KEY}.TERMS", name).build(own) for name in own.TERMS]


def _classifier(cfg: CfgNode, width: int) -> CosineText | Linear:
    settings = cfg.MODEL.DETR.CLASSIFIER
    part = choose(CLASSIFIERS, "MODEL.DETR.CLASSIFIER.NAME", settings.NAME)
    more = {"temperature": settings.TEMPERATURE} if part is CosineText else {}
    made: CosineText | Linear = part(cfg.MODEL.BACKBONE_KD.EMBEDDING, width, 1, **more)
    return made


def refuse_bad_values(cfg: CfgNode) -> None:
    """Raises ValueError naming key and value."""
    own = cfg.MODEL.BACKBONE_KD
    require(f"{KEY}.ACTIVATION", own.ACTIVATION, ACTIVATIONS)
    for key in ("EMBEDDING", "CROP_SIDE", "CROP_CONTEXT"):
        require_positive(key, own[key])
    if not 0 <= own.CROP_JITTER < 1:
        raise ValueError(f"{KEY}.CROP_JITTER must be in [0, 1), got {own.CROP_JITTER}.")
    if not own.LABEL_WEIGHT >= 0:
        raise ValueError(f"{KEY}.LABEL_WEIGHT must be 0 or more, got {own.LABEL_WEIGHT}.")
    if not own.TERMS and not own.LABEL_WEIGHT:
        raise ValueError(f"{KEY}.TERMS is [] and {KEY}.LABEL_WEIGHT 0: there is nothing to learn from.")
    if own.TERMS and own.TEACHER.CONFIG == CLIP:
        require_positive("TEACHER.TEMPERATURE", own.TEACHER.TEMPERATURE)
        if own.ACTIVATION == "sigmoid":
            raise ValueError(
                f'{KEY}.TEACHER.CONFIG "CLIP" chooses among words and says of none that it is not there: set '
                f'{KEY}.ACTIVATION "softmax".'
            )
    if own.TERMS and not own.TEACHER.CONFIG:
        raise ValueError(f'{KEY}.TERMS asks a teacher: name its config in {KEY}.TEACHER.CONFIG, or "CLIP".')
