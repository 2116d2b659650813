"""Distillation, the training extension of DK-DETR: what queries learn from the teacher. N regions, E text width."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from dk_detr.distillation.anneal import Anneal, anneal_from_config
from dk_detr.distillation.from_config import build_taught_queries, build_teacher, refuse_bad_distillation, term_settings
from dk_detr.distillation.taught_queries import DistillationPlan, TaughtQueries
from dk_detr.distillation.terms import DistillationTerm, build_terms
from dk_detr.extensions import BuildContext, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.structures import DETECTION
from dk_detr.utils import record, require


class Distillation(TrainingExtension[DistillationPlan]):
    """Adds queries in training, asks the teacher about regions, returns weighted losses.

    Args:
        queries: which queries are taught, and which regions are chosen. terms: the losses.
        layers: decoder layers that are taught, "last" or "all". anneal: of the losses over training; None for none.
        soft_negatives: whether detection queries where the teacher looked learn that they are not a word only as far as
            the teacher does not believe in it, by the classifier's sigmoid.

    Source: DK-DETR (ICCV 2023), §3.3; soft negatives are ours.
    """

    prefix, teaches_image_embeddings = "kd_", True

    @configurable
    def __init__(
        self,
        queries: TaughtQueries,
        terms: Sequence[DistillationTerm],
        layers: str = "last",
        anneal: Anneal | None = None,
        soft_negatives: bool = False,
    ) -> None:
        super().__init__()
        require("MODEL.KD.LAYERS", layers, ("last", "all"))
        self.queries, self.terms, self.layers, self.anneal = queries, terms, layers, anneal or Anneal()
        self.soft_negatives = soft_negatives

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
        logits = outputs.predictions[DETECTION].logits
        knowledge = plan.knowledge(outputs.assignment.of_layer(len(logits) - 1))
        weight = torch.ones_like(logits[0], dtype=torch.float32)
        believed = outputs.heads.classifier.score(knowledge.embeddings, outputs.text).sigmoid()
        weight[knowledge.regions.image, knowledge.regions.query] = 1 - believed
        return weight

    def supervise(self, plan: DistillationPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`: `loss_kd_<term>`."""
        last = len(outputs.trace.boxes) - 1
        knowledge = plan.knowledge(outputs.assignment.of_layer(last))
        regions = knowledge.regions
        record("kd_regions", len(regions))
        layers = range(last + 1) if self.layers == "all" else (last,)
        students = [plan.students(outputs, regions, layer) for layer in layers]
        factor = self.anneal.factor()
        return {
            f"loss_{self.prefix}{term.name}": factor * torch.stack([term(rows, knowledge) for rows in students]).sum()
            for term in self.terms
        }
