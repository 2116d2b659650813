"""DETR: the whole detector, put together from parts. B images, Q queries, K classes, E text width."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion, counted_once
from dk_detr.distillation import DistillationBranch
from dk_detr.layers import to_shares
from dk_detr.meta_arch.build import backbone_from_config, parts_from_config
from dk_detr.meta_arch.words import OfWords
from dk_detr.modeling import (
    Anchors,
    ChannelMapper,
    Classifier,
    Decoder,
    Denoising,
    Encoder,
    Learned,
    Noisy,
    Proposals,
    to_instances,
)
from dk_detr.structures import FeaturePyramid, Predictions, QuerySet, Targets, Trace, Vocabulary
from dk_detr.structures.queries import DETECT


@META_ARCH_REGISTRY.register()
class DETR(OfWords):
    """A DETR: with one stage or two, for any words or a closed list of them, as its parts say.

    Training: list of dicts with "image" (3, h, w) in INPUT.FORMAT, "instances" (gt_boxes xyxy in pixels, gt_classes
    indexing `train_vocabulary`) -> dict of weighted losses. Evaluation: list of dicts with "image" and the wanted
    output "height", "width" -> list of {"instances": Instances(pred_boxes, scores, pred_classes)}, the classes
    indexing `vocabulary`.

    Args:
        backbone, neck, encoder, queries, decoder, classifier: the parts, in the order of the data.
        criterion, proposal_criterion: the losses of detections, and of the first stage.
        companions: groups of queries that training adds. branch: the distillation branch; None trains without one.
        train_vocabulary: base words. vocabulary: the words to detect; `set_vocabulary` exchanges them.
        pixel_mean, pixel_std: of the input channels. num_detections: of an image, at most.
        padded_size: side of the square that images are padded to; 0 for no more than a batch needs.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: ChannelMapper,
        encoder: Encoder,
        queries: Proposals | Learned | Anchors,
        decoder: Decoder,
        classifier: Classifier,
        criterion: SetCriterion,
        proposal_criterion: SetCriterion,
        companions: Sequence[Denoising] = (),
        branch: DistillationBranch | None,
        train_vocabulary: Vocabulary,
        vocabulary: Vocabulary,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        num_detections: int,
        padded_size: int = 0,
    ) -> None:
        super().__init__()
        # Channels last is how convolutions are fastest, and how the levels of the neck are rows of tokens already.
        self.backbone = backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.neck = neck.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.encoder = encoder
        self.queries, self.decoder, self.classifier = queries, decoder, classifier
        self.criterion, self.proposal_criterion = criterion, proposal_criterion
        self.companions = nn.ModuleList(companions)
        self.branch, self.num_detections, self.padded_size = branch, num_detections, padded_size
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        self.register_words(train_vocabulary, vocabulary)

    pixel_mean: Tensor
    pixel_std: Tensor

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return parts_from_config(cfg, backbone_from_config(cfg))

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See the class."""
        images = self.preprocess(batched_inputs)
        if self.training:
            targets = self.targets(batched_inputs)
            with counted_once(targets, self.device):
                return self.losses(images, batched_inputs, targets)
        return self.detect(images, batched_inputs)

    def losses(self, images: ImageList, batched_inputs: list[dict[str, Any]], targets: Targets) -> dict[str, Tensor]:
        """The weighted losses of one training step."""
        self._require_teacher()
        first_stage = self.queries(memory := self.encoder(self.see(images)))
        position_of = self.queries.position_of
        noisy = [companion(targets, memory.tokens, position_of) for companion in self.companions]
        lesson = self.branch and self.branch.prepare(images, batched_inputs, first_stage, targets, position_of)
        added = [each.group for each in noisy if each] + list(lesson.added if lesson else ())
        trace = self.decoder(QuerySet((first_stage.group, *added)), memory)
        hidden, boxes = trace.of(DETECT)
        predictions = Predictions(self.classifier(hidden, self.train_text), boxes, first_stage.real)
        losses, assignment = self.criterion(predictions, targets)
        if first_stage.predictions is not None:
            wanted = first_stage.wanted(targets)
            losses |= self.proposal_criterion(first_stage.predictions, wanted, "proposal_")[0]
        for companion, each in zip(self.companions, noisy):
            losses |= self.noisy_losses(companion, each, trace, targets)
        if self.branch:
            losses |= self.branch(lesson, trace, self.classifier, assignment)
        return losses

    def noisy_losses(
        self, companion: nn.Module, noisy: Noisy | None, trace: Trace, targets: Targets
    ) -> dict[str, Tensor]:
        """Of queries that know their objects."""
        if noisy is None:  # DDP waits for every gradient, and other workers and parts have all of these losses
            nothing = torch.stack([p.sum() for p in companion.parameters()]).sum() * 0
            return {f"loss_noisy_{term}": nothing for term in self.criterion.weights}
        hidden, boxes = trace.of(noisy.group.name)
        predictions = Predictions(self.classifier(hidden, self.train_text), boxes, noisy.real)
        assignment = noisy.assignment.of_all_layers(len(hidden))
        return self.criterion.losses(predictions, targets, assignment, "noisy_", noisy.num_groups)

    def _require_teacher(self) -> None:
        """Detecting needs none, so that it is missed only here."""
        if self.classifier.learns_images and self.branch is None:
            raise ValueError(
                f'MODEL.DETR.CLASSIFIER.NAME "{type(self.classifier).__name__}" learns from a teacher, but '
                'MODEL.KD.TERMS is []: set it to ["embedding_l1"], or choose "CosineTextBackground".'
            )

    @torch.no_grad()
    def detect(self, images: ImageList, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Detections in the size that each input asks for; only the last decoder layer speaks."""
        see = self.see if self.padded_size else self.see_one_by_one
        first_stage = self.queries(memory := self.encoder(see(images)))
        trace = self.decoder(QuerySet((first_stage.group,)), memory)
        scores = self.classifier.confidence(trace.hidden[-1], self.text, self.novel, first_stage.objectness)
        if first_stage.real is not None:
            scores = scores.masked_fill(~first_stage.real[..., None], 0.0)
        found = to_instances(scores, trace.boxes[-1], images.image_sizes, self.num_detections)
        return [
            {"instances": detector_postprocess(one, given.get("height", size[0]), given.get("width", size[1]))}
            for one, given, size in zip(found, batched_inputs, images.image_sizes)
        ]

    def see(self, images: ImageList) -> FeaturePyramid:
        """Feature maps of a padded batch."""
        levels = self.neck(self.backbone(images.tensor.contiguous(memory_format=torch.channels_last)))
        return FeaturePyramid.from_padded(levels, images.image_sizes, tuple(images.tensor.shape[-2:]))

    def see_one_by_one(self, images: ImageList) -> FeaturePyramid:
        """The same, where images of different size never see padding: convolutions and group norms would, and then
        detections would depend on the company of an image."""
        if all(tuple(size) == tuple(images.tensor.shape[-2:]) for size in images.image_sizes):
            return self.see(images)
        alone = [ImageList(image[None], [tuple(image.shape[-2:])]) for image in images]
        return FeaturePyramid.stack([self.see(one) for one in alone])

    def preprocess(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, move to the device, pad on the right and below to one size: `padded_size`, or the largest image's.

        Raises ValueError for an image that is larger than `padded_size`.
        """
        pixels = [(given["image"].to(self.device) - self.pixel_mean) / self.pixel_std for given in batched_inputs]
        return self._on_squares(pixels, batched_inputs) if self.padded_size else ImageList.from_tensors(pixels)

    def _on_squares(self, pixels: list[Tensor], batched_inputs: list[dict[str, Any]]) -> ImageList:
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

    def targets(self, batched_inputs: list[dict[str, Any]]) -> Targets:
        """Ground truth in the frame of the network. Raises ValueError for a class outside the training vocabulary."""
        labels, boxes = [], []
        for given in batched_inputs:
            instances = given["instances"].to(self.device)
            boxes.append(to_shares(instances.gt_boxes.tensor, instances.image_size))
            labels.append(instances.gt_classes)
            unknown = labels[-1][(labels[-1] < 0) | (labels[-1] >= len(self.train_vocabulary))].tolist()
            if unknown:
                raise ValueError(
                    f"Image {given.get('file_name', '?')}: class {unknown[0]} is not among the "
                    f"{len(self.train_vocabulary)} words of training; use dk_detr's mapper (dk_detr.data)."
                )
        return Targets(tuple(labels), tuple(boxes))
