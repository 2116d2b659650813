"""The second stage of ViLD: Detectron2's standard heads, with words for classes. N regions, K words, E text width."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import StandardROIHeads, build_box_head
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.distillation import Anneal, embedding_l1_loss
from dk_detr.modeling import (
    CosineText,
    CosineTextBackground,
    ensemble,
    with_background,
    with_objectness,
    without_background,
)
from dk_detr.utils import choose
from projects.ViLD.vild.detections import best_detections
from projects.ViLD.vild.forms import FORMS, Form
from projects.ViLD.vild.predictor import BoxPredictor
from projects.ViLD.vild.teaching import TaughtRegions

Features = dict[str, Tensor]


class ImageHead(nn.Module):
    """The second head of ViLD-ensemble: it learns the teacher's embeddings and nothing else.

    Args:
        box_head: from pooled features to vectors. classifier: from these to embeddings to logits.
    """

    def __init__(self, box_head: nn.Module, classifier: CosineText) -> None:
        super().__init__()
        self.box_head, self.classifier = box_head, classifier

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, E), not normalised."""
        return self.classifier.project(self.box_head(pooled), -1)


class ViLDHeads(StandardROIHeads):
    """Box head, mask head, and in ViLD-ensemble the image head.

    Args:
        form: what is learned and how words are scored. image_head: where the form has two heads, else None.
        image_weight: w, of the L1 loss. anneal: of w over training. home_weight,
        objectness_exponent: see MODEL.VILD.{HOME_WEIGHT, OBJECTNESS}.
        parts: Detectron2's.
    """

    @configurable
    def __init__(
        self,
        *,
        form: Form,
        image_head: ImageHead | None,
        image_weight: float,
        anneal: Anneal,
        home_weight: float,
        objectness_exponent: float = 0.0,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.form, self.image_head = form, image_head
        self.image_weight, self.anneal, self.home_weight = image_weight, anneal, home_weight
        self.objectness_exponent = objectness_exponent

    box_predictor: BoxPredictor

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec], num_words: int, width: int) -> dict[str, Any]:
        """Args: num_words: of training. width: E."""
        form = choose(FORMS, "MODEL.VILD.FORM", cfg.MODEL.VILD.FORM)
        if not cfg.MODEL.VILD.OBJECTNESS >= 0:
            raise ValueError(f"MODEL.VILD.OBJECTNESS must be 0 or more, got {cfg.MODEL.VILD.OBJECTNESS}.")
        if cfg.MODEL.MASK_ON and not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
            raise ValueError("ViLD has one mask for all words: set MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK to True.")
        parts = {**super().from_config(cfg, input_shape), "num_classes": num_words}
        shape, temperature = parts["box_head"].output_shape, cfg.MODEL.VILD.TEMPERATURE
        classifier = CosineTextBackground if form.learns_labels else CosineText
        parts["box_predictor"] = BoxPredictor(
            cfg, shape, classifier=classifier(shape.channels, width, 1, temperature), num_classes=num_words
        )
        parts["image_head"] = None
        if form.num_heads == 2:
            head = build_box_head(cfg, _pooled_shape(cfg, input_shape))
            parts["image_head"] = ImageHead(head, CosineText(shape.channels, width, 1, temperature))
        return {
            **parts,
            "form": form,
            "image_weight": cfg.MODEL.KD.EMBEDDING_L1.WEIGHT,
            "home_weight": cfg.MODEL.VILD.HOME_WEIGHT,
            "objectness_exponent": cfg.MODEL.VILD.OBJECTNESS,
        }

    def losses(
        self,
        features: Features,
        proposals: list[Instances],
        objects: list[Instances],
        text: Tensor,
        taught: TaughtRegions | None,
    ) -> dict[str, Tensor]:
        """The weighted losses of a training step.

        Args:
            proposals: of the first stage. objects: the ground truth. text: (K, E) of the words of training.
            taught: of the teacher; None for ViLD-text.
        """
        proposals = self.label_and_sample_proposals(proposals, objects)
        pooled = self._pool(features, [one.proposal_boxes for one in proposals])
        if taught is None:
            losses = self.box_predictor.label_losses(self.box_head(pooled), text, proposals)
        else:
            losses = self._losses_with(taught, features, pooled, text, proposals)
        return {**losses, **self._forward_mask(features, proposals)}

    def _losses_with(
        self, taught: TaughtRegions, features: Features, pooled: Tensor, text: Tensor, proposals: list[Instances]
    ) -> dict[str, Tensor]:
        of_taught = self._pool(features, taught.boxes)
        if self.image_head is None:  # one run of the head for both, then each takes its part
            vectors, of_taught = self.box_head(torch.cat([pooled, of_taught])).split([len(pooled), len(of_taught)])
            student = self.box_predictor.embed(of_taught)
        else:
            # Also where there is no region: other workers wait for its gradients, and SyncBN for its statistics.
            vectors, student = self.box_head(pooled), self.image_head(of_taught)
        losses = self.box_predictor.label_losses(vectors, text, proposals)
        weight = self.anneal.factor() * self.image_weight
        return {**losses, "loss_kd_embedding_l1": weight * embedding_l1_loss(student, taught.embeddings)}

    def detect(self, features: Features, proposals: list[Instances], text: Tensor, novel: Tensor) -> list[Instances]:
        """Detections in the frame of the network.

        Args:
            text: (K, E) of any words. novel: (K,) bool, which of them were not trained.
        """
        pooled = self._pool(features, [one.proposal_boxes for one in proposals])
        vectors, predictor = self.box_head(pooled), self.box_predictor
        objectness = torch.cat([one.objectness_logits for one in proposals])
        log_scores = self.score(pooled, vectors, objectness, text, novel).split([len(one) for one in proposals])
        boxes = predictor.predict_boxes((None, predictor.bbox_pred(vectors)), proposals)
        limits = predictor.test_score_thresh, predictor.test_nms_thresh, predictor.test_topk_per_image
        images = zip(boxes, log_scores, (one.image_size for one in proposals))
        return self.forward_with_given_boxes(features, [best_detections(*image, *limits) for image in images])

    def score(self, pooled: Tensor, vectors: Tensor, objectness: Tensor, text: Tensor, novel: Tensor) -> Tensor:
        """(N, K) log-scores of words, as the form has it; and as much of the objectness as is asked for.

        Args:
            pooled: (N, C, h, w) of the regions. vectors: what the box head makes of them. objectness: (N,) logits.
        """
        log_scores = self._by_form(pooled, vectors, objectness, text, novel)
        return log_scores + self.objectness_exponent * F.logsigmoid(objectness)[:, None]

    def _by_form(self, pooled: Tensor, vectors: Tensor, objectness: Tensor, text: Tensor, novel: Tensor) -> Tensor:
        predictor = self.box_predictor
        if not isinstance(predictor.classifier, CosineTextBackground):
            log_image = without_background(predictor.classifier.score(predictor.embed(vectors), text))
            return with_objectness(log_image, objectness)
        log_text = with_background(predictor.classifier.score(predictor.embed(vectors), text))
        if self.image_head is None:
            return log_text
        log_image = without_background(self.image_head.classifier.score(self.image_head(pooled), text))
        return ensemble(log_text, log_image, novel, self.home_weight)

    def _pool(self, features: Features, boxes: list[Boxes]) -> Tensor:
        return self.box_pooler([features[name] for name in self.box_in_features], boxes)


def _pooled_shape(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> ShapeSpec:
    side = cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION
    return ShapeSpec(channels=input_shape[cfg.MODEL.ROI_HEADS.IN_FEATURES[0]].channels, height=side, width=side)
