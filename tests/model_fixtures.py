"""A whole detector that takes milliseconds: a backbone of two convolutions, a stand-in for CLIP, a few words, images.

Parts are made by plain functions with explicit arguments; what they make is the same on every call.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, PolygonMasks
from torch import Tensor, nn
from torch.nn import functional as F

from dk_detr.criterion import CLASS_LOSSES, HungarianMatcher, SetCriterion
from dk_detr.distillation import (
    Anneal,
    AuxiliaryQueries,
    CLIPCrops,
    DetectionQueries,
    Distillation,
    SelectedAuxiliaryQueries,
    SlotSelection,
    StoredEmbeddings,
    TaughtQueries,
    TermSettings,
    build_terms,
)
from dk_detr.distillation.teachers import clip_crops
from dk_detr.engine import setup_cfg
from dk_detr.extensions import TrainingInputs
from dk_detr.language import CLOSED, Clip, is_closed
from dk_detr.meta_arch import DETR, build
from dk_detr.modeling import (
    CLASSIFIERS,
    POSITIONS,
    REFINEMENTS,
    ChannelMapper,
    Decoder,
    DecoderLayer,
    DeformableCross,
    DeformableTokens,
    DenseSelf,
    Encoder,
    EncoderLayer,
    FeedForward,
    InitialQueries,
    box_heads,
)
from dk_detr.modeling import QUERIES as QUERY_PARTS
from dk_detr.structures import Assignment, FeaturePyramid, Memory, Predictions, Targets, Vocabulary
from tests.run_fixtures import REPOSITORY

CHANNELS, WIDTH, LEVELS, HEADS, POINTS, QUERIES = 32, 16, 2, 4, 2, 12
MEAN, STD = (110.0, 120.0, 130.0), (50.0, 60.0, 70.0)
TERMS = ("semantic", "relational", "embedding_l1")
SERIES = (
    "detr_R50", "conditional_detr_R50", "deformable_detr_R50", "deformable_detr_refine_R50",
    "deformable_detr_two_stage_R50", "dab_detr_R50", "dn_detr_R50", "dab_deformable_detr_R50",
    "dn_deformable_detr_R50", "dino_R50_4scale",
)  # fmt: skip
"""The closed detectors of the DETR series, by the names of their configs."""
SMALL: dict[str, Any] = {
    "NUM_EXTRA_LEVELS": 0, "CHANNELS": CHANNELS, "NUM_QUERIES": QUERIES, "NUM_HEADS": HEADS, "NUM_POINTS": POINTS,
    "ENCODER_LAYERS": 2, "DECODER_LAYERS": 3, "FFN_CHANNELS": 48, "DROPOUT": 0.0, "ANCHOR_SIZE": 0.2,
    "CONTRASTIVE_DENOISING.QUERIES": 6, "PADDED_SIZE": 0,
}  # fmt: skip
"""What makes a detector of configs/ tiny, below MODEL.DETR."""


class TwoConvolutions(Backbone):
    """Maps of stride 4 and 8 that see a little beyond their cell, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 5, stride=4, padding=2)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        fine = self.first(pixels).relu()
        return {"fine": fine, "coarse": self.second(fine).relu()}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {"fine": ShapeSpec(channels=CHANNELS, stride=4), "coarse": ShapeSpec(channels=CHANNELS, stride=8)}


class TinyClip(nn.Module):
    """Encodes the average colours of the quarters of an image, and the letters of a text."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(12, width), nn.Embedding(128, width)
        self.dropout = nn.Dropout(0.5)  # betrays a teacher that was put into training mode

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.image(self.dropout(F.adaptive_avg_pool2d(pixels, 2).flatten(1)))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens).sum(1)


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """Initialise modules the same way each time, without touching the random numbers of others."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def tiny_clip(width: int = WIDTH, image_size: int = 8) -> Clip:
    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor([[ord(letter) % 128 for letter in text.ljust(12)[:12]] for text in texts])

    with fixed_seed(2):
        return Clip(TinyClip(width), tokenize, image_size, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), {"library": "tiny"})


def random(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers, the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tiny_vocabulary(novel: Sequence[bool] = (False, True, False, False, True), seed: int = 0) -> Vocabulary:
    names = tuple(f"word {i}" for i in range(len(novel)))
    return Vocabulary(names, F.normalize(random(len(names), WIDTH, seed=seed), dim=1), torch.tensor(novel))


def closed_vocabulary(novel: Sequence[bool] = (False, True, False, False, True)) -> Vocabulary:
    """The same words for a detector that knows no others: each an axis."""
    return Vocabulary(tiny_vocabulary(novel).names, torch.eye(len(novel)), torch.tensor(novel))


def tiny_feed_forward() -> FeedForward:
    return FeedForward(CHANNELS, 48, dropout=0.0)


def tiny_encoder(num_layers: int = 1) -> Encoder:
    with fixed_seed():
        layers = [
            EncoderLayer(DeformableTokens(CHANNELS, HEADS, LEVELS, POINTS), tiny_feed_forward(), CHANNELS, dropout=0.0)
            for _ in range(num_layers)
        ]
        return Encoder(layers, LEVELS, CHANNELS)


def tiny_decoder(
    num_layers: int = 2,
    refinement: str = "Iterative",
    num_heads: int | None = None,
    reference_width: int = 4,
    positions: str = "Given",
) -> Decoder:
    """Queries that start from points (2) or boxes (4); `num_heads` box heads, by default one for each layer."""
    refine = REFINEMENTS[refinement]()
    with fixed_seed():
        layers = []
        for _ in range(num_layers):
            cross = DeformableCross(CHANNELS, HEADS, LEVELS, POINTS)
            itself = DenseSelf(CHANNELS, HEADS, dropout=0.0)
            layers.append(DecoderLayer(itself, cross, tiny_feed_forward(), CHANNELS, dropout=0.0))
        heads = box_heads(CHANNELS, num_heads or num_layers, refine.widths(reference_width, num_layers))
        return Decoder(layers, heads, POSITIONS[positions](CHANNELS), refine)


def tiny_teacher(crop_scales: Sequence[float] = (1.0,), clip: Clip | None = None, **settings: Any) -> CLIPCrops:
    return CLIPCrops(clip or tiny_clip(), MEAN, STD, crop_scales=crop_scales, **{"bgr": False, **settings})


def tiny_distillation(
    terms: Sequence[str] = TERMS,
    queries: str = "Auxiliary",
    layers: str = "last",
    slots: SlotSelection | None = None,
    settings: TermSettings | None = None,
    teacher: CLIPCrops | StoredEmbeddings | None = None,
    anneal: Anneal | None = None,
    **settings_of_queries: Any,
) -> Distillation:
    """Taught queries "Auxiliary", "SelectedAuxiliary" or "Detection"."""
    slots, teacher = slots or SlotSelection(num_slots=5, min_side=0.0), teacher or tiny_teacher()
    with fixed_seed(3):
        made: TaughtQueries
        if queries == "SelectedAuxiliary":
            made = SelectedAuxiliaryQueries(teacher, slots, CHANNELS, **settings_of_queries)
        elif queries == "Auxiliary":
            made = AuxiliaryQueries(teacher, slots, QUERIES, CHANNELS, **settings_of_queries)
        else:
            made = DetectionQueries(teacher, slots)
        return Distillation(made, build_terms(terms, settings or TermSettings()), layers, anneal)


def training_inputs(
    initial: InitialQueries,
    targets: Targets,
    images: ImageList | None = None,
    batched_inputs: list[dict[str, Any]] | None = None,
    position_of: Any = None,
) -> TrainingInputs:
    """What an extension is given before decoding; of what is not named, something small."""
    content = initial.group.content
    images = images or ImageList.from_tensors(list(random(len(content), 3, 32, 32)))
    memory = Memory(content.new_zeros(len(content), 1, content.shape[-1]), ((1, 1),), content.new_zeros(1, 1, 2))
    place = position_of or (lambda boxes, dtype: boxes.new_zeros(*boxes.shape[:2], content.shape[-1]).to(dtype))
    given = batched_inputs or [{} for _ in content]
    count = float(max(sum(targets.counts), 1))
    queries: Any = SimpleNamespace(position_of=place)
    return TrainingInputs(images, given, FeaturePyramid(()), memory, initial, targets, count, queries)


def tiny_detector(
    distillation: Distillation | None = None,
    vocabulary: Vocabulary | None = None,
    queries: str = "Proposals",
    refinement: str = "Iterative",
    classifier: str = "CosineText",
    num_heads: int = 2,
) -> DETR:
    """An untrained detector in evaluation mode, all of its parameters stirred (see `stir`)."""
    words = vocabulary or (closed_vocabulary() if classifier in CLOSED else tiny_vocabulary())
    with fixed_seed(4):
        backbone = TwoConvolutions()
        anchors = {"anchor_size": 0.2} if queries in ("Proposals", "Mixed") else {}
        first_stage = QUERY_PARTS[queries](CHANNELS, QUERIES, **anchors)
        detector = DETR(
            backbone=backbone,
            neck=ChannelMapper(backbone.output_shape(), ("fine", "coarse"), CHANNELS, num_extra_levels=0),
            encoder=tiny_encoder(),
            queries=first_stage,
            decoder=tiny_decoder(
                2,
                refinement,
                num_heads,
                first_stage.reference_width,
                "SineAnchors" if queries == "Anchors" else "Given",
            ),
            classifier=CLASSIFIERS[classifier](CHANNELS, words.width, num_heads),
            criterion=tiny_criterion(classifier),
            proposal_criterion=tiny_criterion(),
            extensions=nn.ModuleDict({} if distillation is None else {"Distillation": distillation}),
            train_vocabulary=words.base(),
            vocabulary=words,
            pixel_mean=MEAN,
            pixel_std=STD,
            num_detections=20,
        )
    return stir(detector).eval()


def configured_detector(name: str, **options: Any) -> DETR:
    """The detector of a file of configs/ as a tiny one, stirred and in evaluation mode; `options` are more keys below
    MODEL.DETR, or whole ones, "__" for their dots."""
    cfg = tiny_config(name, **options)
    words = closed_vocabulary() if is_closed(cfg) else tiny_vocabulary()
    with (
        fixed_seed(4),
        patch.object(build, "vocabularies_from_config", lambda cfg: (words.base(), words)),
        patch.object(clip_crops, "clip_from_config", lambda cfg: tiny_clip()),
    ):
        detector = DETR(**build.parts_from_config(cfg, TwoConvolutions()))
    return stir(detector).eval()


def tiny_config(name: str, **options: Any) -> CfgNode:
    """See `configured_detector`."""
    cfg = config_of(name).clone()
    cfg.defrost()
    maps = {"IN_FEATURES": ["coarse"] if len(cfg.MODEL.DETR.IN_FEATURES) == 1 else ["fine", "coarse"]}
    keys = {**SMALL, **maps, **{key.replace("__", "."): value for key, value in options.items()}}
    extensions = keys.pop("TRAINING_EXTENSIONS", None)
    whole = {key if key.startswith("MODEL.") else f"MODEL.DETR.{key}": value for key, value in keys.items()}
    cfg.merge_from_list([word for pair in whole.items() for word in pair])
    if extensions is not None:
        cfg.MODEL.TRAINING_EXTENSIONS = extensions
    cfg.MODEL.KD.NUM_SLOTS, cfg.MODEL.KD.MIN_SIDE = 5, 0.0
    cfg.MODEL.CALIBRATION = ""  # no file of it is here
    return cfg


@cache
def config_of(name: str) -> CfgNode:
    """As the file has it."""
    return setup_cfg(str(REPOSITORY / "configs" / f"{name}.yaml"))


def tiny_criterion(classifier: str = "CosineText") -> SetCriterion:
    """With the class loss that fits the classifier."""
    (loss,) = (loss for loss in CLASS_LOSSES.values() if loss.activation == CLASSIFIERS[classifier].activation)
    return SetCriterion(HungarianMatcher(class_loss=loss()), {"class": 2.0, "l1": 5.0, "giou": 2.0})


def learn(
    criterion: SetCriterion, predictions: Predictions, targets: Targets, stage: str = ""
) -> tuple[dict[str, Tensor], Assignment]:
    """The losses of a batch that is whole, and the assignment."""
    return criterion(predictions, targets, float(max(sum(targets.counts), 1)), stage)


def stir(module: nn.Module) -> Any:
    """Add noise to all parameters: boxes, offsets and weights that start at zero would hide what depends on what."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            parameter += 0.1 * random(*parameter.shape, seed=number)
    return module


def tiny_input(size: tuple[int, int] = (40, 48), num_objects: int = 2, seed: int = 0) -> dict[str, Any]:
    """One image (h, w) with objects of the base words, as Detectron2's loaders give it."""
    generator = torch.Generator().manual_seed(seed)
    h, w = size
    corner = torch.rand(num_objects, 2, generator=generator) * 0.5
    side = torch.rand(num_objects, 2, generator=generator) * 0.4 + 0.1
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.cat([corner, corner + side], dim=1) * torch.tensor([w, h, w, h]))
    instances.gt_classes = torch.randint(3, (num_objects,), generator=generator)
    image = torch.randint(256, (3, h, w), generator=generator).float()
    return {"image": image, "height": h, "width": w, "file_name": f"{seed}.jpg", "instances": instances}


def outlined(sample: dict[str, Any], form: str = "polygon") -> dict[str, Any]:
    """The same with masks: the boxes without a corner."""
    objects = sample["instances"]
    outlines = [[[x0, y0, x1, y0, x1, y1, (x0 + x1) / 2, y1]] for x0, y0, x1, y1 in objects.gt_boxes.tensor.tolist()]
    masks = PolygonMasks(outlines)
    objects.gt_masks = masks if form == "polygon" else BitMasks.from_polygon_masks(masks, *objects.image_size)
    return sample


def teaching(classifier: str) -> Distillation | None:
    """What a detector with this classifier needs in training: a teacher, or none."""
    return tiny_distillation() if CLASSIFIERS[classifier].learns_image_embeddings else None


def training_losses(detector: DETR, inputs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The losses of one step, with the detector left in training mode."""
    return detector.train()(inputs)


def targets_of(*images: tuple[list[int], list[list[float]]]) -> Targets:
    """Targets from (labels, boxes cxcywh) of each image."""
    labels = tuple(torch.tensor(labels, dtype=torch.long) for labels, _ in images)
    return Targets(labels, tuple(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4) for _, boxes in images))
