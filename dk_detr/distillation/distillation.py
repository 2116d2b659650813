"""Distillation, the training extension of DK-DETR: what queries learn from the teacher. N regions, E text width."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from dk_detr.distillation.anneal import Anneal, anneal_from_config
from dk_detr.distillation.from_config import build_taught_queries, build_teacher, refuse_bad_distillation, term_settings
from dk_detr.distillation.pseudo_objects import PseudoObjects, pseudo_objects_from_config
from dk_detr.distillation.taught_queries import DistillationPlan, TaughtQueries
from dk_detr.distillation.terms import DistillationTerm, build_terms
from dk_detr.extensions import BuildContext, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.structures import DETECTION, RegionKnowledge, Regions, Targets
from dk_detr.utils import record, require


class Distillation(TrainingExtension[DistillationPlan]):
    """Adds queries in training, asks the teacher about regions, returns weighted losses.

    Args:
        queries: which queries are taught, and which regions are chosen. terms: the losses.
        layers: decoder layers that are taught, "last" or "all". anneal: of the losses over training; None for none.
        soft_negatives: whether detection queries where the teacher looked learn that they are not a word only as far as
            the teacher does not believe in it, by the classifier's sigmoid.
        pseudo_objects: regions without a label become objects for the first stage; None for none.

    Source: DK-DETR (ICCV 2023), §3.3; soft negatives are ours.
    """

    prefix, has_teacher, teaches_image_embeddings = "kd_", True, True

    @configurable
    def __init__(
        self,
        queries: TaughtQueries,
        terms: Sequence[DistillationTerm],
        layers: str = "last",
        anneal: Anneal | None = None,
        soft_negatives: bool = False,
        pseudo_objects: PseudoObjects | None = None,
    ) -> None:
        super().__init__()
        require("MODEL.KD.LAYERS", layers, ("last", "all"))
        self.queries, self.terms, self.layers, self.anneal = queries, terms, layers, anneal or Anneal()
        self.soft_negatives, self.choose_pseudo_objects = soft_negatives, pseudo_objects

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        teacher = build_teacher(cfg, context.vocabulary)
        terms = build_terms(cfg.MODEL.KD.TERMS, term_settings(cfg))
        return {
            "queries": build_taught_queries(cfg, teacher),
            "terms": terms,
            "layers": cfg.MODEL.KD.LAYERS,
            "anneal": anneal_from_config(cfg),
            "soft_negatives": cfg.MODEL.KD.NEGATIVES == "Soft",
            "pseudo_objects": pseudo_objects_from_config(cfg),
        }

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode, name: str) -> None:
        """See `TrainingExtension`."""
        refuse_bad_distillation(cfg, name)

    def prepare(self, inputs: TrainingInputs) -> DistillationPlan:
        """See `TrainingExtension`."""
        plan: DistillationPlan = self.queries(inputs)
        return plan

    def negative_weight(
        self, plan: DistillationPlan, inputs: TrainingInputs, outputs: TrainingOutputs
    ) -> Tensor | None:
        """See `TrainingExtension`: 1 less what the teacher believes of a word, where it has looked."""
        if not self.soft_negatives:
            return None
        regions, believed = _beliefs(plan, outputs)
        weight = torch.ones_like(outputs.predictions[DETECTION].logits[0], dtype=torch.float32)
        weight[regions.image, regions.query] = 1 - believed
        return weight

    def pseudo_objects(
        self, plan: DistillationPlan, inputs: TrainingInputs, outputs: TrainingOutputs
    ) -> Targets | None:
        """See `TrainingExtension`: regions that the teacher takes for some word of training, or nearly so."""
        if self.choose_pseudo_objects is None:
            return None
        return self.choose_pseudo_objects(*_beliefs(plan, outputs), inputs.targets)

    def supervise(self, plan: DistillationPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`: `loss_kd_<term>`."""
        last = len(outputs.trace.boxes) - 1
        knowledge = _knowledge(plan, outputs)
        regions = knowledge.regions
        record("kd_regions", len(regions))
        layers = range(last + 1) if self.layers == "all" else (last,)
        students = [plan.students(outputs, regions, layer) for layer in layers]
        factor = self.anneal.factor()
        return {
            f"loss_{self.prefix}{term.name}": factor * torch.stack([term(rows, knowledge) for rows in students]).sum()
            for term in self.terms
        }


def _knowledge(plan: DistillationPlan, outputs: TrainingOutputs) -> RegionKnowledge:
    return plan.knowledge(outputs.assignment.of_layer(len(outputs.trace.boxes) - 1))


def _beliefs(plan: DistillationPlan, outputs: TrainingOutputs) -> tuple[Regions, Tensor]:
    """The regions, and (N, K) in [0, 1], how far the teacher believes in each word of training there."""
    knowledge = _knowledge(plan, outputs)
    return knowledge.regions, outputs.heads.classifier.score(knowledge.embeddings, outputs.text).sigmoid()
