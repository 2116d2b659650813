"""What the heads say of a region: a box, and a place among the words. N regions, C channels, K words, E text width."""

from typing import Any

from detectron2.config import configurable
from detectron2.layers import cat, cross_entropy
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from torch import Tensor

from dk_detr.modeling import CosineText, CosineTextBackground


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
        if isinstance(self.classifier, CosineTextBackground):
            losses["loss_cls"] = cross_entropy(self.classifier.score(self.embed(features), text), labels)
        return losses
