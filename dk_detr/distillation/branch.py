"""The distillation branch of DK-DETR: companion queries, and what they learn from the teacher.

B images, Q queries, C channels, D layers, N regions, E text width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from dk_detr.distillation.gather import gather_rows
from dk_detr.distillation.slots import SlotSelection
from dk_detr.distillation.teachers import CLIPCrops
from dk_detr.distillation.terms import embedding_l1_loss, relational_kd_loss, semantic_kd_loss
from dk_detr.distillation.terms.relational import DIRECTIONS
from dk_detr.modeling import CosineText, FirstStage
from dk_detr.structures import Assignment, QueryGroup, QuerySet, RegionKnowledge, Targets, Trace, record, timed
from dk_detr.structures.queries import DETECT

DISTIL = "distil"
Loss = Callable[[Tensor, Tensor], Tensor]


def _choose(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f'{key} is "{value}"; choose one of {", ".join(choices)}.')


@dataclass(frozen=True)
class Term:
    """One loss of the branch: `loss` of student and teacher rows, over the regions of each image or of the batch."""

    name: str
    loss: Loss
    weight: float
    scope: str = "image"

    def __call__(self, student: Tensor, knowledge: RegionKnowledge, num_images: int) -> Tensor:
        """(N, E) student rows -> weighted scalar; over images, the mean of those that have regions."""
        teacher = knowledge.embeddings
        if self.scope == "batch":
            return self.weight * self.loss(gather_rows(student), gather_rows(teacher))
        per_image = torch.bincount(knowledge.regions.image, minlength=num_images).tolist()
        taught = [n for n in per_image if n]
        if not taught:
            return self.weight * self.loss(student, teacher)
        losses = [self.loss(s, t) for s, t in zip(student.split(taught), teacher.split(taught))]
        return self.weight * torch.stack(losses).mean()


@dataclass(frozen=True)
class Companions:
    """How the distillation queries stand to the others.

    Attributes:
        group: "distil" for queries of their own, "detect" to distil into the detection queries themselves.
        reads: groups that the distillation queries see in self-attention.
        reference: "follow" the refined boxes of the detection queries, or "stay" at the proposals, where the teacher
            looks.
    """

    group: str = DISTIL
    reads: tuple[str, ...] = (DISTIL,)
    reference: str = "follow"

    def __post_init__(self) -> None:
        _choose("MODEL.KD.GROUP", self.group, (DISTIL, DETECT))
        _choose("MODEL.KD.REFERENCE", self.reference, ("follow", "stay"))
        for name in self.reads:
            _choose("MODEL.KD.READS", name, (DISTIL, DETECT))


PAPER_SLOTS, PAPER_COMPANIONS = SlotSelection(), Companions()


class DistillationBranch(nn.Module):
    """Adds queries in training, picks slots, asks the teacher, returns weighted losses.

    Args:
        teacher: answers for regions. terms: the losses. slots: which slots are distilled.
        companions: how the branch's queries stand to the others. num_queries: Q. channels: C.
        layers: decoder layers that are taught, "last" or "all".

    Source: DK-DETR (ICCV 2023), §3.3.
    """

    def __init__(
        self,
        teacher: CLIPCrops,
        terms: Sequence[Term],
        num_queries: int,
        channels: int,
        slots: SlotSelection = PAPER_SLOTS,
        companions: Companions = PAPER_COMPANIONS,
        layers: str = "last",
    ) -> None:
        super().__init__()
        _choose("MODEL.KD.LAYERS", layers, ("last", "all"))
        self.teacher, self.terms, self.slots, self.companions, self.layers = teacher, terms, slots, companions, layers
        if companions.group == DISTIL:
            # Zero, not noise: all slots start alike, and near what detection queries know. Noise cost the mini world
            # 7 points of base and 5 of novel AP50 (configs/mini/README.md).
            self.content = nn.Embedding(num_queries, channels)
            nn.init.zeros_(self.content.weight)

    def add_queries(self, first_stage: FirstStage) -> QuerySet:
        """The detection queries, and beside them the branch's own: same positions and boxes, learned content."""
        detect = first_stage.group
        if self.companions.group == DETECT:
            return QuerySet((detect,))
        content = self.content.weight[: len(detect)].to(detect.content.dtype).expand(len(detect.content), -1, -1)
        steered_by = DETECT if self.companions.reference == "follow" else None
        reads = self.companions.reads
        return QuerySet(
            (detect, QueryGroup(DISTIL, content, detect.position, detect.reference, reads, steered_by, detect.blocked))
        )

    def forward(
        self,
        pixels: Tensor,
        image_sizes: list[tuple[int, int]],
        first_stage: FirstStage,
        trace: Trace,
        classifier: CosineText,
        assignment: Assignment,
        targets: Targets,
    ) -> dict[str, Tensor]:
        """The weighted losses `loss_kd_<term>`.

        Args:
            pixels: (B, 3, H, W) normalised input. assignment: of all decoder layers' detections. Others: see there.
        """
        last = len(trace.hidden) - 1
        boxes = first_stage.group.reference
        assert boxes is not None and first_stage.objectness is not None  # what build.py makes sure of
        regions = self.slots(boxes, first_stage.objectness, assignment.of_layer(last), targets, image_sizes)
        record("kd_regions", len(regions))
        with timed("teacher"):
            knowledge = self.teacher(pixels, image_sizes, regions)
        hidden, _ = trace.of(self.companions.group)
        taught = range(last + 1) if self.layers == "all" else (last,)
        rows = [classifier.project(hidden[layer, regions.image, regions.query], layer) for layer in taught]
        return {
            f"loss_kd_{term.name}": torch.stack([term(x, knowledge, len(boxes)) for x in rows]).sum()
            for term in self.terms
        }


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
        _choose("MODEL.KD.TERMS", name, ("semantic", "relational", "embedding_l1"))
        weight = settings.weights.get(name, 1.0)
        if name == "semantic":
            terms.append(Term(name, partial(semantic_kd_loss, temperature=settings.semantic_temperature), weight))
        elif name == "embedding_l1":
            terms.append(Term(name, embedding_l1_loss, weight))
        else:
            terms += _relational(settings, weight)
    return terms


def _relational(settings: TermSettings, weight: float) -> list[Term]:
    _choose("MODEL.KD.RELATIONAL.DIRECTION", settings.relational_direction, DIRECTIONS)
    loss = partial(
        relational_kd_loss, temperature=settings.relational_temperature, direction=settings.relational_direction
    )
    if not settings.relational_scopes:
        raise ValueError('MODEL.KD.RELATIONAL.SCOPES is empty; name "image", "batch" or both.')
    for scope in settings.relational_scopes:
        _choose("MODEL.KD.RELATIONAL.SCOPES", scope, ("image", "batch"))
    return [Term(f"relational_{scope}", loss, weight, scope) for scope in settings.relational_scopes]
