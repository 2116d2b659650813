"""What a teacher tells a detector about one image: the distilled regions, what CLIP says of them, and their relations.

N regions, E embedding width, K words.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from scipy.cluster.hierarchy import leaves_list, linkage
from torch import Tensor
from torch.nn import functional as F

from dk_detr.distillation import Distillation
from dk_detr.distillation.teachers import LIVE
from dk_detr.distillation.terms.relational import log_relations
from dk_detr.engine.checkpoint import StrictCheckpointer
from dk_detr.engine.setup import for_inference, with_values
from dk_detr.explain.detections import require_detr
from dk_detr.layers import to_absolute_xyxy
from dk_detr.meta_arch import DETR
from dk_detr.structures import RegionKnowledge, Vocabulary

WORDS = 3  # that are named of a region, the best first


@dataclass(frozen=True)
class Teaching:
    """What is distilled of an image; regions are in the order in which similar ones stand side by side.

    Attributes:
        vocabulary: the words that are compared with.
        queries: (N,) which query, or slot, is taught. boxes_xyxy_abs: (N, 4) in pixels of the picture.
        teacher, student: (N, E) unit rows, what CLIP and the last decoder layer say.
        temperature: of the relations. direction: of their divergence, see `relational_kd_loss`.
        word_temperature: of the softmax over words.
    """

    vocabulary: Vocabulary
    queries: Tensor
    boxes_xyxy_abs: Tensor
    teacher: Tensor
    student: Tensor
    temperature: float
    direction: str
    word_temperature: float

    def __len__(self) -> int:
        return len(self.queries)

    def relations(self) -> tuple[Tensor, Tensor]:
        """(N, N) of the teacher and of the student, as RKD compares them: rows sum to 1."""
        log_teacher, log_student = self._log_relations()
        return log_teacher.exp(), log_student.exp()

    def divergences(self) -> Tensor:
        """(N,) the divergence of each row of the relations, whose mean is the loss."""
        pair = self._log_relations()
        aim, said = pair if self.direction == "teacher_student" else pair[::-1]
        return (aim.exp() * (aim - said)).sum(1)

    def _log_relations(self) -> tuple[Tensor, Tensor]:
        return log_relations(self.teacher, self.temperature), log_relations(self.student, self.temperature)

    def word_shares(self) -> tuple[Tensor, Tensor]:
        """(N, K) of the teacher and of the student: a softmax over the words to detect; rows sum to 1."""
        teacher, student = (
            (F.linear(rows, self.vocabulary.embeddings.float()) / self.word_temperature).softmax(-1)
            for rows in (self.teacher, self.student)
        )
        return teacher, student


@dataclass
class _Listener:
    """Stands where the terms of the distillation stand, and keeps what they are given, layer by layer."""

    name: str = "listener"
    heard: list[tuple[Tensor, RegionKnowledge]] = field(default_factory=list)

    def __call__(self, student: Tensor, knowledge: RegionKnowledge) -> Tensor:
        self.heard.append((student, knowledge))
        return student.new_zeros(())


def refuse_without_teacher(cfg: CfgNode) -> None:
    """Raises ValueError for a config that does not learn from CLIP, or from one of random weights."""
    if "Distillation" not in cfg.MODEL.TRAINING_EXTENSIONS:
        raise ValueError(
            f'MODEL.TRAINING_EXTENSIONS {list(cfg.MODEL.TRAINING_EXTENSIONS)} has no "Distillation": this detector '
            "was not taught by CLIP. Leave out --teacher, or take the config of one that was."
        )
    if not cfg.MODEL.CLIP.WEIGHTS and cfg.MODEL.CLIP.LIBRARY == "open_clip":
        raise ValueError('MODEL.CLIP.WEIGHTS is "": a CLIP of random weights says nothing. Name a tag or file.')


def explain_teaching(cfg: CfgNode, sample: dict[str, Any], vocabulary: Vocabulary) -> Teaching:
    """Go through a training step of the distillation with one image without labels, up to the losses.

    Args:
        cfg: of the detector, with its MODEL.WEIGHTS. sample: see `Predictor.sample_of`. vocabulary: of the detector's
            CLIP, the words to compare with.

    Raises: ValueError, FileNotFoundError for a config without distillation, or a CLIP that cannot be loaded or is not
        that of the words.
    """
    refuse_without_teacher(cfg)
    model = _distilling(cfg)
    student, knowledge = heard_by_terms(model, sample)
    regions, size = knowledge.regions, (sample["height"], sample["width"])
    boxes = Boxes(to_absolute_xyxy(regions.boxes.float(), size))
    boxes.clip(size)
    relational = cfg.MODEL.KD.RELATIONAL
    teaching = Teaching(
        vocabulary=vocabulary,
        queries=regions.query.cpu(),
        boxes_xyxy_abs=boxes.tensor.cpu(),
        teacher=F.normalize(knowledge.embeddings.float(), dim=1).cpu(),
        student=F.normalize(student.float(), dim=1).cpu(),
        temperature=relational.TEMPERATURE,
        direction=relational.DIRECTION,
        word_temperature=cfg.MODEL.TEST_FUSION.TEMPERATURE,
    )
    return side_by_side(teaching)


@torch.no_grad()
def heard_by_terms(model: DETR, sample: dict[str, Any]) -> tuple[Tensor, RegionKnowledge]:
    """What the terms of the distillation are given of the last decoder layer, in a step with this image alone: (N, E)
    rows of the student, not normalised, and the regions with the teacher's."""
    distillation: Distillation = model.extensions["Distillation"]
    terms, listener = distillation.terms, _Listener()
    distillation.terms = [listener]  # type: ignore[list-item]  # all that is asked of a term
    try:
        model.losses([without_labels(sample)])
    finally:
        distillation.terms = terms
    return listener.heard[-1]


def side_by_side(teaching: Teaching) -> Teaching:
    """The same with regions that CLIP finds similar next to one another."""
    if len(teaching) < 3:
        return teaching
    order = torch.from_numpy(leaves_list(linkage(teaching.teacher.numpy(), "average", optimal_ordering=True)))
    rows = ("queries", "boxes_xyxy_abs", "teacher", "student")
    return replace(teaching, **{name: getattr(teaching, name)[order.long()] for name in rows})


def _distilling(cfg: CfgNode) -> DETR:
    """The detector with its distillation, and with nothing else that training adds: what changes other losses needs
    files that are not needed here."""
    teacher = cfg.MODEL.TEACHER.NAME
    values = {
        "MODEL.TRAINING_EXTENSIONS": ["Distillation"],
        "MODEL.TEACHER.NAME": teacher if teacher in LIVE else "CLIPCrops",  # a bank has no photo of one's own
        "MODEL.KD.NEGATIVES": "Hard",
        "MODEL.KD.PSEUDO_OBJECTS": None,
        "MODEL.MASK_ON": False,
        "MODEL.DETR.MASKS": "",
    }
    model = require_detr(build_model(with_values(for_inference(cfg), values)).eval())
    StrictCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model


def without_labels(sample: dict[str, Any]) -> dict[str, Any]:
    """The sample as training has it, of an image in which nothing is labelled."""
    size = (sample["image"].shape[-2], sample["image"].shape[-1])
    none = Instances(size, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.long))
    return {**sample, "instances": none}
