"""What the heads say of a region: a box, and a place among the words. N regions, C channels, K words, E text width."""

from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import cat, cross_entropy
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling import CosineText


class WithBackground(CosineText):
    """Cosine similarity with text embeddings, and with one that is learned for what is no object, for a softmax.

    Args:
        channels: C. width: E. temperature: of the cosine.

    Source: ViLD (ICLR 2022), eq. 2 and 3; the start of the background from its release.
    """

    def __init__(self, channels: int, width: int, temperature: float) -> None:
        super().__init__(channels, width, 1, temperature)
        self.background = nn.Parameter(torch.randn(width) * 0.01)

    def score_all(self, embeddings: Tensor, text: Tensor) -> Tensor:
        """(N, E) embeddings and (K, E) unit text rows -> (N, K + 1) logits, background last."""
        return self.score(embeddings, torch.cat([text, F.normalize(self.background.float(), dim=0)[None]]))


class BoxPredictor(FastRCNNOutputLayers):
    """Detectron2's, with boxes for no class in particular, and in the place of its class scores an embedding.

    Args:
        classifier: from features to embeddings to logits; one without a background learns nothing from labels of words.
        parts: Detectron2's. Of its loss weights the box's counts.
    """

    @configurable
    def __init__(self, *, classifier: CosineText, **parts: Any) -> None:
        super().__init__(**{**parts, "cls_agnostic_bbox_reg": True})
        del self.cls_score
        self.classifier = classifier

    def embed(self, features: Tensor) -> Tensor:
        """(N, C) -> (N, E), not normalised."""
        return self.classifier.project(features, -1)

    def label_losses(self, features: Tensor, text: Tensor, proposals: list[Instances]) -> dict[str, Tensor]:
        """Losses against the labels.

        Args:
            features: (N, C) of the proposals. text: (K, E) of the words of training; `gt_classes` K is background.
            proposals: of each image, with proposal_boxes, gt_classes and, where the image shows an object, gt_boxes.
        """
        labels = cat([one.gt_classes for one in proposals])
        boxes = cat([one.proposal_boxes.tensor for one in proposals])
        objects = cat([(one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes).tensor for one in proposals])
        box_loss = self.box_reg_loss(boxes, objects, self.bbox_pred(features), labels)
        losses = {"loss_box_reg": box_loss * self.loss_weight.get("loss_box_reg", 1.0)}
        if isinstance(self.classifier, WithBackground):
            losses["loss_cls"] = cross_entropy(self.classifier.score_all(self.embed(features), text), labels)
        return losses
