"""The second stage: Detectron2's way to choose and refine regions, and words for classes. N regions, E text width."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.roi_heads import ROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.modeling.roi_heads.roi_heads import select_foreground_proposals
from detectron2.structures import Boxes, Instances
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.modeling import CosineText
from dk_detr.utils import require
from projects.RegionCLIP.regionclip.detections import best_detections, fused
from projects.RegionCLIP.regionclip.losses import word_loss
from projects.RegionCLIP.regionclip.recognizer import Recognizer

CHOICES = {
    "REGIONS": ("Proposals", "GroundTruth"),
    "BOXES": ("Refined", "AsProposed"),
    "FUSION": ("none", "sigmoid", "raw_logit"),
    "NMS": ("Hard", "Soft"),
}
"""What keys of MODEL.REGIONCLIP may be."""


class Words(CosineText):
    """Cosines with the text over a temperature, for a softmax whose background has the logit 0. It learns nothing: the
    embeddings of regions are in CLIP's space already."""

    activation = "softmax"

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__(width, width, 0, temperature)

    def score(self, projected: Tensor, text: Tensor) -> Tensor:
        """See `Classifier`: (…, K + 1), the last for background."""
        return F.pad(super().score(projected, text), (0, 1))


class Naming(nn.Module):
    """From the embeddings of an image's regions to its detections.

    Args:
        words: tells words apart. fusion, nms: see MODEL.REGIONCLIP. threshold, nms_iou, count: of detections.
    """

    @configurable
    def __init__(self, words: Words, fusion: str, nms: str, threshold: float, nms_iou: float, count: int) -> None:
        super().__init__()
        self.words, self.fusion, self.nms = words, fusion, nms
        self.threshold, self.nms_iou, self.count = threshold, nms_iou, count

    @classmethod
    def from_config(cls, cfg: CfgNode, width: int) -> dict[str, Any]:
        """`width`: E."""
        own, heads = cfg.MODEL.REGIONCLIP, cfg.MODEL.ROI_HEADS
        return {
            "words": Words(width, own.TEMPERATURE),
            "fusion": own.FUSION,
            "nms": own.NMS,
            "threshold": heads.SCORE_THRESH_TEST,
            "nms_iou": heads.NMS_THRESH_TEST,
            "count": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def forward(
        self, proposals: Instances, boxes: Tensor, embeddings: Tensor, text: Tensor
    ) -> tuple[Instances, Tensor]:
        """Detections in the frame of the proposals, and (N,) the likeliest word of each proposal.

        Args:
            boxes: (N, 4) xyxy, the proposals or what became of them. embeddings: (N, E). text: (K, E) of any words.
        """
        scores = self.words.score(embeddings, text).softmax(-1)[:, :-1]
        objectness = proposals.objectness_logits if proposals.has("objectness_logits") else None
        limits = self.threshold, self.nms_iou, self.count, self.nms
        found = best_detections(boxes, fused(scores, objectness, self.fusion), proposals.image_size, *limits)
        return found, scores.argmax(-1)


class RegionHeads(ROIHeads):
    """Regions of the recognizer's map become words, boxes, and masks where they are on.

    Args:
        naming: tells words apart, and chooses detections. boxes: Detectron2's box regression, class-agnostic.
        mask_head: of the recognizer's last features; None for boxes alone. refined: whether boxes are refined.
        background_weight, focal_exponent: see `word_loss`. parts: Detectron2's.
    """

    @configurable
    def __init__(
        self,
        *,
        naming: Naming,
        boxes: FastRCNNOutputLayers,
        mask_head: MaskRCNNConvUpsampleHead | None,
        refined: bool,
        background_weight: float,
        focal_exponent: float,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        self.naming, self.boxes, self.mask_head, self.refined = naming, boxes, mask_head, refined
        self.background_weight, self.focal_exponent = background_weight, focal_exponent

    @classmethod
    def from_config(cls, cfg: CfgNode, recognizer: Recognizer, num_words: int) -> dict[str, Any]:
        """`num_words`: of training."""
        own = cfg.MODEL.REGIONCLIP
        refuse_bad_values(cfg)
        boxes = FastRCNNOutputLayers(
            ShapeSpec(channels=recognizer.width),
            box2box_transform=Box2BoxTransform(weights=cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS),
            num_classes=num_words,
            cls_agnostic_bbox_reg=True,
        )
        del boxes.cls_score
        return {
            **super().from_config(cfg),
            "num_classes": num_words,
            "naming": Naming(cfg, width=recognizer.width),
            "boxes": boxes,
            "mask_head": _mask_head(cfg, recognizer) if cfg.MODEL.MASK_ON else None,
            "refined": own.BOXES == "Refined",
            "background_weight": own.BACKGROUND_WEIGHT,
            "focal_exponent": own.FOCAL_EXPONENT,
        }

    def losses(
        self,
        recognizer: Recognizer,
        features: Tensor,
        proposals: list[Instances],
        objects: list[Instances],
        text: Tensor,
    ) -> dict[str, Tensor]:
        """The weighted losses of a training step.

        Args:
            features: (B, C, h, w), the map. proposals: of each image. objects: the ground truth.
            text: (K, E) of the words of training.
        """
        sampled = self.label_and_sample_proposals(proposals, objects)
        seen = recognizer.features_of(features, [one.proposal_boxes.tensor for one in sampled])
        embeddings, labels = recognizer.pool(seen), cat([one.gt_classes for one in sampled])
        boxes = cat([one.proposal_boxes.tensor for one in sampled])
        wanted = cat([(one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes).tensor for one in sampled])
        weights = self.background_weight, self.focal_exponent
        losses = {
            "loss_cls": word_loss(self.naming.words.score(embeddings, text), labels, *weights),
            "loss_box_reg": self.boxes.box_reg_loss(boxes, wanted, self.boxes.bbox_pred(embeddings), labels),
        }
        return losses if self.mask_head is None else {**losses, **self._mask_losses(self.mask_head, seen, sampled)}

    def _mask_losses(
        self, mask_head: MaskRCNNConvUpsampleHead, seen: Tensor, sampled: list[Instances]
    ) -> dict[str, Tensor]:
        foreground, chosen = select_foreground_proposals(sampled, self.num_classes)
        losses: dict[str, Tensor] = mask_head(seen[torch.cat(chosen)], foreground)
        return losses

    def detect(
        self, recognizer: Recognizer, features: Tensor, proposals: Instances, text: Tensor
    ) -> tuple[Instances, Tensor]:
        """Detections of one image in the frame of its proposals, and (N,) the likeliest word of each of these.

        Args:
            features: (1, C, h, w), the map. text: (K, E) of any words.
        """
        embeddings = recognizer.embeddings_of(features, [proposals.proposal_boxes.tensor])
        boxes = self._boxes(proposals, self.boxes.bbox_pred(embeddings))
        found, named = self.naming(proposals, boxes, embeddings, text)
        if self.mask_head is not None:  # of the boxes that were found, not of those that were proposed
            self.mask_head(recognizer.features_of(features, [found.pred_boxes.tensor]), [found])
        return found, named

    def _boxes(self, proposals: Instances, deltas: Tensor) -> Tensor:
        boxes: Tensor = proposals.proposal_boxes.tensor
        if not self.refined or not len(boxes):
            return boxes
        refined: Tensor = self.boxes.box2box_transform.apply_deltas(deltas.float(), boxes)
        return refined

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *others: Any) -> None:
        """Where boxes stay as proposed, weights need not say how to refine them."""
        boxes = f"{prefix}boxes."
        if not self.refined and not any(name.startswith(boxes) for name in state_dict):
            state_dict.update({boxes + name: tensor for name, tensor in self.boxes.state_dict().items()})
        super()._load_from_state_dict(state_dict, prefix, *others)


def ground_truth(boxes: Boxes, size: tuple[int, int]) -> Instances:
    """The objects of an image as proposals that nobody rated."""
    return Instances(size, proposal_boxes=boxes.clone())  # Detectron2 clips and scales boxes where they lie


def _mask_head(cfg: CfgNode, recognizer: Recognizer) -> MaskRCNNConvUpsampleHead:
    if not cfg.MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK:
        raise ValueError("RegionCLIP has one mask for all words: set MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK to True.")
    shape = ShapeSpec(channels=recognizer.channels)
    return MaskRCNNConvUpsampleHead(shape, num_classes=1, conv_dims=[cfg.MODEL.ROI_MASK_HEAD.CONV_DIM])


def refuse_bad_values(cfg: CfgNode) -> None:
    own = cfg.MODEL.REGIONCLIP
    for key, choices in CHOICES.items():
        require(f"MODEL.REGIONCLIP.{key}", own[key], choices)
    if own.TEMPERATURE <= 0:
        raise ValueError(f"MODEL.REGIONCLIP.TEMPERATURE must be above 0, got {own.TEMPERATURE}.")
    for key in ("BACKGROUND_WEIGHT", "FOCAL_EXPONENT"):
        if not own[key] >= 0:
            raise ValueError(f"MODEL.REGIONCLIP.{key} must be 0 or more, got {own[key]}.")
    if own.REGIONS == "GroundTruth" and own.FUSION != "none":
        raise ValueError(
            f'MODEL.REGIONCLIP.FUSION "{own.FUSION}" asks for a localizer\'s objectness, and MODEL.REGIONCLIP.REGIONS '
            '"GroundTruth" has none: set the former to "none".'
        )
