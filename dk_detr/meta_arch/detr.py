"""DETR: the whole detector, put together from parts. B images, Q queries, K classes, E text width."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from dk_detr.criterion import MaskCriterion, SetCriterion, mean_num_objects
from dk_detr.extensions import Plan, TrainingInputs, TrainingOutputs
from dk_detr.layers import to_absolute_xyxy, to_normalized_cxcywh
from dk_detr.meta_arch.build import backbone_from_config, parts_from_config
from dk_detr.meta_arch.extensions import require_own_losses
from dk_detr.meta_arch.masks import Masks
from dk_detr.meta_arch.open_vocabulary import OpenVocabularyDetector, refuse_unknown_classes
from dk_detr.modeling import (
    BoxQuality,
    ChannelMapper,
    Classifier,
    DynamicMasks,
    Encoder,
    Heads,
    InitialQueries,
    Queries,
    ROIHead,
    to_instances,
)
from dk_detr.structures import DETECTION, FeaturePyramid, Memory, Predictions, QuerySet, Targets, Trace, Vocabulary

Inputs = list[dict[str, Any]]
Losses = dict[str, Tensor]


@META_ARCH_REGISTRY.register()
class DETR(OpenVocabularyDetector):
    """A DETR: with one stage or two, for any words or a closed list of them, as its parts say.

    Training: list of dicts with "image" (3, h, w) in INPUT.FORMAT, "instances" (gt_boxes xyxy in pixels, gt_classes
    indexing `train_vocabulary`, gt_masks where masks are on) -> dict of weighted losses. Evaluation: list of dicts with
    "image" and the wanted output "height", "width" -> list of {"instances": Instances(pred_boxes, scores, pred_classes,
    pred_masks where masks are on)}, the classes indexing `vocabulary`.

    Args:
        backbone, neck, encoder, queries, decoder, classifier: the parts, in the order of the data.
        criterion, proposal_criterion: the losses of detections, and of the first stage.
        extensions: what training adds, by name; none in a detector that is built for inference.
        train_vocabulary: base words. vocabulary: the words to detect; `set_vocabulary` exchanges them.
        pixel_mean, pixel_std: of the input channels. num_detections: of an image, at most.
        padded_size: side of the square that images are padded to; 0 for no more than a batch needs.
        nms_iou: of two detections of a word that overlap more, the better stays; None for no NMS.
        roi_head: says the novel words, of the boxes that were found; None where the queries do.
        quality: says how well boxes fit; None for nobody. quality_exponent: of it in the scores.
        mask_head, mask_criterion: draw masks, and their losses; None for boxes alone.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: ChannelMapper,
        encoder: Encoder,
        queries: Queries,
        decoder: nn.Module,
        classifier: Classifier,
        criterion: SetCriterion,
        proposal_criterion: SetCriterion,
        extensions: nn.ModuleDict | None = None,
        train_vocabulary: Vocabulary,
        vocabulary: Vocabulary,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_detections: int,
        padded_size: int = 0,
        nms_iou: float | None = None,
        roi_head: ROIHead | None = None,
        quality: BoxQuality | None = None,
        quality_exponent: float = 0.0,
        mask_head: DynamicMasks | None = None,
        mask_criterion: MaskCriterion | None = None,
    ) -> None:
        super().__init__()
        # Channels last is how convolutions are fastest, and how the levels of the neck are rows of tokens already.
        self.backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.neck = neck.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoder = encoder
        self.queries, self.decoder, self.classifier = queries, decoder, classifier
        self.criterion, self.proposal_criterion = criterion, proposal_criterion
        self.extensions = nn.ModuleDict() if extensions is None else extensions
        self.roi_head, self.quality = roi_head, quality
        self.heads = Heads(classifier, quality, quality_exponent)
        self.mask_head = mask_head
        self.masks = Masks(mask_head, mask_criterion) if mask_head and mask_criterion else None
        self.num_detections, self.padded_size, self.nms_iou = num_detections, padded_size, nms_iou
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.register_words(train_vocabulary, vocabulary)

    extensions: Any
    pixel_mean: Tensor
    pixel_std: Tensor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return parts_from_config(cfg, backbone_from_config(cfg))

    @property
    def parts_left_out(self) -> dict[str, str]:
        """See `OpenVocabularyDetector`."""
        return {} if self.mask_head else {"mask_head.": 'MODEL.MASK_ON False or MODEL.DETR.MASKS ""'}

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: Inputs, num_objects: float | Tensor | None = None) -> Any:
        """See the class.

        Args:
            num_objects: in training, what detection losses are divided by where the batch is a part of a larger one
                (see `mean_num_objects`); None for the objects of this batch.
        """
        if not self.training:
            return self.detect(batched_inputs)
        return self.losses(batched_inputs, num_objects)

    def losses(self, batched_inputs: Inputs, num_objects: float | Tensor | None = None) -> Losses:
        """The weighted losses of one training step."""
        self._require_teacher()
        images, targets = self.preprocess(batched_inputs), self.targets(batched_inputs)
        if num_objects is None:
            num_objects = mean_num_objects(sum(targets.counts), self.device)
        pyramid = self.extract_features(images)
        initial = self.queries(memory := self.encoder(pyramid))
        inputs = TrainingInputs(
            images, batched_inputs, pyramid, memory, initial, targets, num_objects, self.queries, self.roi_head
        )
        plans: list[Plan] = [extension.prepare(inputs) for extension in self.extensions.values()]
        trace = self.decoder(QuerySet((initial.group, *(group for plan in plans for group in plan.groups))), memory)
        predictions = self.heads(trace, self.train_text)
        assignment = self.criterion.match(predictions[DETECTION], targets)
        outputs = TrainingOutputs(trace, predictions, self.train_text, assignment, self.heads)
        detections = replace(predictions[DETECTION], negative_weight=self._negative_weight(plans, inputs, outputs))
        losses = self.criterion.losses(detections, targets, assignment, num_objects)
        losses |= self.proposal_losses(initial, targets, num_objects, self._pseudo_objects(plans, inputs, outputs))
        if self.masks is not None:
            losses |= self.masks.losses(inputs, outputs)
        for (name, extension), plan in zip(self.extensions.items(), plans):
            more = extension.supervise(plan, inputs, outputs)
            require_own_losses(name, extension.prefix, more)
            losses |= more
        return losses

    def _negative_weight(self, plans: list[Plan], inputs: TrainingInputs, outputs: TrainingOutputs) -> Tensor | None:
        """The product of what extensions say; None where none of them says anything."""
        asked = zip(self.extensions.values(), plans)
        weights = [extension.negative_weight(plan, inputs, outputs) for extension, plan in asked]
        said = [weight for weight in weights if weight is not None]
        return math.prod(said[1:], start=said[0]) if said else None

    def _pseudo_objects(self, plans: list[Plan], inputs: TrainingInputs, outputs: TrainingOutputs) -> list[Targets]:
        asked = zip(self.extensions.values(), plans)
        said = [extension.pseudo_objects(plan, inputs, outputs) for extension, plan in asked]
        return [objects for objects in said if objects is not None]

    def predict(self, images: ImageList, text: Tensor) -> Predictions:
        """What the detection queries say in every layer, of a padded batch and words (K, E): for comparison with other
        detectors and with objects."""
        initial = self.queries(memory := self.encoder(self.extract_features(images)))
        trace = self.decoder(QuerySet((initial.group,)), memory)
        return self.heads(trace, text)[DETECTION]

    def proposal_losses(
        self, initial: InitialQueries, targets: Targets, num_objects: float | Tensor, more: Sequence[Targets] = ()
    ) -> Losses:
        """Those of the first stage; none where queries are no proposals. `more`: objects without a label."""
        if initial.predictions is None:
            return {}
        wanted = initial.proposal_targets(targets)
        if not initial.class_aware:  # what has no label has no word
            wanted = reduce(Targets.joined, more, wanted)
        return self.proposal_criterion(initial.predictions, wanted, num_objects, "proposal_")[0]

    def _require_teacher(self) -> None:
        """Detecting needs none, so that it is missed only here."""
        taught = any(extension.teaches_image_embeddings for extension in self.extensions.values())
        if self.classifier.learns_image_embeddings and not taught:
            raise ValueError(
                f'MODEL.DETR.CLASSIFIER.NAME "{type(self.classifier).__name__}" learns from a teacher: name '
                '"Distillation" in MODEL.TRAINING_EXTENSIONS and "embedding_l1" in MODEL.KD.TERMS, or choose '
                '"CosineTextBackground".'
            )

    def detect(self, batched_inputs: Inputs) -> list[dict[str, Any]]:
        """Detections in the size that each input asks for; only the last decoder layer speaks."""
        return self._detect(batched_inputs)[0]

    @torch.no_grad()
    def _detect(self, batched_inputs: Inputs) -> tuple[list[dict[str, Any]], InitialQueries]:
        images = self.preprocess(batched_inputs)
        initial = self.queries(memory := self._encode(images))
        trace = self.decoder(QuerySet((initial.group,)), memory)
        scores = self.word_scores(trace, initial, memory)
        found = to_instances(scores, trace.boxes[-1], images.image_sizes, self.num_detections, self.nms_iou)
        asked = zip(found, batched_inputs, images.image_sizes)
        found = [detector_postprocess(one, *_output_size(given, size)) for one, given, size in asked]
        found = [one[one.scores >= self.least_score] for one in found] if self.least_score else found
        if self.masks is not None:
            self.masks.draw(found, trace, memory, images.image_sizes, self.padded_size)
        return [{"instances": one} for one in found], initial

    def word_scores(self, trace: Trace, initial: InitialQueries, memory: Memory) -> Tensor:
        """(B, Q, K) in [0, 1], of each detection query and word to detect: what detections are chosen by."""
        head = self.roi_head if self.any_novel else None
        seen = None if head is None else head.of_queries(trace.boxes[-1], memory)
        return self.heads.scores(trace, initial, self.text, self.train_text, self.novel, seen)

    @property
    def proposes(self) -> bool:
        """See `OpenVocabularyDetector`."""
        return self.queries.proposes

    def detect_with_proposals(self, batched_inputs: Inputs) -> list[dict[str, Any]]:
        """See `OpenVocabularyDetector`."""
        outputs, initial = self._detect(batched_inputs)
        assert initial.group.reference is not None and initial.objectness is not None  # as `proposes` says
        sizes = [output["instances"].image_size for output in outputs]
        proposals = map(_proposals, initial.group.reference, initial.objectness, sizes)
        return [{**output, "proposals": each} for output, each in zip(outputs, proposals)]

    @torch.no_grad()
    def propose(self, batched_inputs: Inputs, limit: int | None = None) -> list[Instances]:
        """See `OpenVocabularyDetector`: all tokens of a class-agnostic first stage, else the queries."""
        if not self.proposes:
            return super().propose(batched_inputs, limit)
        images = self.preprocess(batched_inputs)
        predictions = self.queries(self._encode(images)).predictions
        objectness = predictions.logits[0].amax(-1)
        if predictions.valid is not None:
            objectness = objectness.masked_fill(~predictions.valid, -torch.inf)
        number = objectness.shape[1] if limit is None else min(limit, objectness.shape[1])
        best, token = objectness.topk(number, dim=1)
        boxes = predictions.boxes[0].gather(1, token[..., None].expand(-1, -1, 4))
        sizes = [_output_size(given, size) for given, size in zip(batched_inputs, images.image_sizes)]
        return [_proposals(*each) for each in zip(boxes, best, sizes)]

    def _encode(self, images: ImageList) -> Memory:
        """For inference."""
        extract = self.extract_features if self.padded_size else self.extract_features_per_image
        memory: Memory = self.encoder(extract(images))
        return memory

    def extract_features(self, images: ImageList) -> FeaturePyramid:
        """Feature maps of a padded batch."""
        maps = self.backbone(images.tensor.contiguous(memory_format=torch.channels_last))
        return FeaturePyramid.from_padded(self.neck(maps), images.image_sizes, tuple(images.tensor.shape[-2:]), maps)

    def extract_features_per_image(self, images: ImageList) -> FeaturePyramid:
        """The same, where images of different size never see padding: convolutions and group norms would, and then
        detections would depend on the company of an image."""
        if all(tuple(size) == tuple(images.tensor.shape[-2:]) for size in images.image_sizes):
            return self.extract_features(images)
        alone = [ImageList(image[None], [tuple(image.shape[-2:])]) for image in images]
        return FeaturePyramid.stack([self.extract_features(one) for one in alone])

    def preprocess(self, batched_inputs: Inputs) -> ImageList:
        """Normalise, move to the device, pad on the right and below to one size: `padded_size`, or the largest image's.

        Raises ValueError for an image that is larger than `padded_size`.
        """
        pixels = [(given["image"].to(self.device) - self.pixel_mean) / self.pixel_std for given in batched_inputs]
        return self._on_squares(pixels, batched_inputs) if self.padded_size else ImageList.from_tensors(pixels)

    def _on_squares(self, pixels: list[Tensor], batched_inputs: Inputs) -> ImageList:
        side = self.padded_size
        squares = self.pixel_mean.new_zeros(len(pixels), len(self.pixel_mean), side, side)
        sizes = [(image.shape[-2], image.shape[-1]) for image in pixels]
        for square, image, (h, w), given in zip(squares, pixels, sizes, batched_inputs):
            if max(h, w) > side:
                raise ValueError(
                    f"Image {given.get('file_name', '?')} comes as {w}x{h} pixels and does not fit into the square of "
                    f"MODEL.DETR.PADDED_SIZE {side}: resize it, or choose a larger square, or 0 for none."
                )
            square[:, :h, :w] = image
        return ImageList(squares, sizes)

    def targets(self, batched_inputs: Inputs) -> Targets:
        """Ground truth in the frame of the network. Raises ValueError for a class outside the training vocabulary."""
        labels, boxes = [], []
        for given in batched_inputs:
            instances = given["instances"]  # its masks stay where they are
            corners = instances.gt_boxes.tensor.to(self.device)
            boxes.append(to_normalized_cxcywh(corners, instances.image_size))
            # Looked at before they are moved: on a GPU the host would have to wait for all that is queued.
            refuse_unknown_classes(instances.gt_classes, len(self.train_vocabulary), given.get("file_name", "?"))
            labels.append(instances.gt_classes.to(self.device))
        return Targets(tuple(labels), tuple(boxes))


def _output_size(given: dict[str, Any], size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) that an input asks for, its own by default."""
    return given.get("height", size[0]), given.get("width", size[1])


def _proposals(boxes: Tensor, objectness: Tensor, size: tuple[int, int]) -> Instances:
    """Of an image: (N, 4) cxcywh in [0, 1], (N,) logits, -inf for none."""
    absolute = Boxes(to_absolute_xyxy(boxes.float(), size))
    absolute.clip(size)
    return Instances(size, proposal_boxes=absolute, objectness_logits=objectness)[objectness.isfinite()]
