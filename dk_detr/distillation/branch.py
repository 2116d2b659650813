"""The distillation branch of DK-DETR: what companion queries learn from the teacher. N regions, E text width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from detectron2.structures import ImageList
from torch import Tensor, nn

from dk_detr.distillation.companions import Companions, Lesson, PositionOf
from dk_detr.distillation.gather import gather_rows
from dk_detr.distillation.teachers import stored_candidates
from dk_detr.distillation.terms import embedding_l1_loss, relational_kd_loss, semantic_kd_loss
from dk_detr.distillation.terms.relational import DIRECTIONS
from dk_detr.modeling import CosineText, FirstStage
from dk_detr.structures import Assignment, RegionKnowledge, Scene, Targets, Trace
from dk_detr.utils import record, require

Loss = Callable[..., Tensor]  # of student, teacher, and `group`


@dataclass(frozen=True)
class Term:
    """One loss of the branch: `loss` of student and teacher rows, over the regions of each image or of the batch."""

    name: str
    loss: Loss
    weight: float
    scope: str = "image"

    def __call__(self, student: Tensor, knowledge: RegionKnowledge) -> Tensor:
        """(N, E) student rows -> weighted scalar; over images, the mean of those that have regions."""
        teacher = knowledge.embeddings
        if self.scope == "batch":
            return self.weight * self.loss(gather_rows(student), gather_rows(teacher))
        return self.weight * self.loss(student, teacher, group=knowledge.regions.image)


class DistillationBranch(nn.Module):
    """Adds queries in training, asks the teacher about regions, returns weighted losses.

    Args:
        companions: makes the queries and chooses the regions. terms: the losses.
        layers: decoder layers that are taught, "last" or "all".

    Source: DK-DETR (ICCV 2023), §3.3.
    """

    def __init__(self, companions: Companions, terms: Sequence[Term], layers: str = "last") -> None:
        super().__init__()
        require("MODEL.KD.LAYERS", layers, ("last", "all"))
        self.companions, self.terms, self.layers = companions, terms, layers

    def prepare(
        self,
        images: ImageList,
        batched_inputs: list[dict[str, Any]],
        first_stage: FirstStage,
        targets: Targets,
        position_of: PositionOf,
    ) -> Lesson:
        """The queries to decode, and what will be taught; see `Companions`."""
        scene = Scene(images.tensor, images.image_sizes, stored_candidates(batched_inputs, images.tensor.device))
        lesson: Lesson = self.companions(scene, first_stage, targets, position_of)
        return lesson

    def forward(
        self, lesson: Lesson, trace: Trace, classifier: CosineText, assignment: Assignment
    ) -> dict[str, Tensor]:
        """The weighted losses `loss_kd_<term>`.

        Args:
            assignment: of all decoder layers' detections. Others: see there.
        """
        hidden, _ = trace.of(lesson.group)
        last = len(hidden) - 1
        knowledge = lesson.knowledge(assignment.of_layer(last))
        regions = knowledge.regions
        record("kd_regions", len(regions))
        taught = range(last + 1) if self.layers == "all" else (last,)
        rows = [classifier.project_image(hidden[layer, regions.image, regions.query], layer) for layer in taught]
        return {f"loss_kd_{term.name}": torch.stack([term(x, knowledge) for x in rows]).sum() for term in self.terms}


@dataclass(frozen=True)
class TermSettings:
    """Numbers of the losses; see config.py."""

    weights: dict[str, float] = field(default_factory=dict)
    semantic_temperature: float = 0.05
    relational_temperature: float = 0.1
    relational_direction: str = "teacher_student"
    relational_scopes: tuple[str, ...] = ("image", "batch")


def build_terms(names: Sequence[str], settings: TermSettings) -> list[Term]:
    """The losses by their names in MODEL.KD.TERMS: "semantic", "relational", "embedding_l1"."""
    terms = []
    for name in names:
        require("MODEL.KD.TERMS", name, ("semantic", "relational", "embedding_l1"))
        weight = settings.weights.get(name, 1.0)
        if name == "semantic":
            terms.append(Term(name, partial(semantic_kd_loss, temperature=settings.semantic_temperature), weight))
        elif name == "embedding_l1":
            terms.append(Term(name, embedding_l1_loss, weight))
        else:
            terms += _relational(settings, weight)
    return terms


def _relational(settings: TermSettings, weight: float) -> list[Term]:
    require("MODEL.KD.RELATIONAL.DIRECTION", settings.relational_direction, DIRECTIONS)
    loss = partial(
        relational_kd_loss, temperature=settings.relational_temperature, direction=settings.relational_direction
    )
    if not settings.relational_scopes:
        raise ValueError('MODEL.KD.RELATIONAL.SCOPES is empty; name "image", "batch" or both.')
    for scope in settings.relational_scopes:
        require("MODEL.KD.RELATIONAL.SCOPES", scope, ("image", "batch"))
    return [Term(f"relational_{scope}", loss, weight, scope) for scope in settings.relational_scopes]
