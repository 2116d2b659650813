"""DistillationTerm: one loss of the distillation, by its name in MODEL.KD.TERMS. N regions, E text width."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from dk_detr.distillation.gather import gather_rows
from dk_detr.distillation.terms.embedding_l1 import embedding_l1_loss
from dk_detr.distillation.terms.relational import DIRECTIONS, relational_kd_loss
from dk_detr.distillation.terms.semantic import semantic_kd_loss
from dk_detr.structures import RegionKnowledge
from dk_detr.utils import require

Loss = Callable[..., Tensor]  # of student, teacher, and `group`


@dataclass(frozen=True)
class DistillationTerm:
    """`loss` of student and teacher rows, over the regions of each image or of the batch."""

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


@dataclass(frozen=True)
class TermSettings:
    """Numbers of the losses; see config.py."""

    weights: dict[str, float] = field(default_factory=dict)
    semantic_temperature: float = 0.05
    relational_temperature: float = 0.1
    relational_direction: str = "teacher_student"
    relational_scopes: tuple[str, ...] = ("image", "batch")
    semantic_offset: float = 0.0


def build_terms(names: Sequence[str], settings: TermSettings) -> list[DistillationTerm]:
    """The losses by their names in MODEL.KD.TERMS, see `TERMS`."""
    terms = []
    for name in names:
        require("MODEL.KD.TERMS", name, TERMS)
        terms += TERMS[name](settings, settings.weights.get(name, 1.0))
    return terms


def _semantic(settings: TermSettings, weight: float) -> list[DistillationTerm]:
    temperature, offset = settings.semantic_temperature, settings.semantic_offset
    return [DistillationTerm("semantic", partial(semantic_kd_loss, temperature=temperature, offset=offset), weight)]


def _embedding_l1(settings: TermSettings, weight: float) -> list[DistillationTerm]:
    return [DistillationTerm("embedding_l1", embedding_l1_loss, weight)]


def _relational(settings: TermSettings, weight: float) -> list[DistillationTerm]:
    require("MODEL.KD.RELATIONAL.DIRECTION", settings.relational_direction, DIRECTIONS)
    loss = partial(
        relational_kd_loss, temperature=settings.relational_temperature, direction=settings.relational_direction
    )
    if not settings.relational_scopes:
        raise ValueError('MODEL.KD.RELATIONAL.SCOPES is empty; name "image", "batch" or both.')
    for scope in settings.relational_scopes:
        require("MODEL.KD.RELATIONAL.SCOPES", scope, ("image", "batch"))
    return [DistillationTerm(f"relational_{scope}", loss, weight, scope) for scope in settings.relational_scopes]


TERMS: dict[str, Callable[[TermSettings, float], list[DistillationTerm]]] = {
    "semantic": _semantic,
    "relational": _relational,
    "embedding_l1": _embedding_l1,
}
"""By their name in MODEL.KD.TERMS: from the numbers of all and the weight of this one to its losses."""
