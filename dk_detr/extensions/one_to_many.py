"""One-to-many: a second set of queries, of which several answer for each object.

One-to-one matching gives a query in ten a positive; here many learn what an object is and where its edges are. The
detection queries see none of them, and inference has none. B images, Q queries, S tokens, C channels.
"""

from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from dk_detr.criterion import SetCriterion
from dk_detr.extensions.extension import BuildContext, Plan, TrainingExtension, TrainingInputs, TrainingOutputs
from dk_detr.modeling import QUERIES
from dk_detr.structures import QueryGroup

ONE_TO_MANY = "one_to_many"


@dataclass(frozen=True)
class OneToManyPlan(Plan):
    """One group of queries."""


class OneToMany(TrainingExtension[OneToManyPlan]):
    """Q further queries, from the best proposals, matched to K copies of each object.

    Args:
        channels: C. criterion: the losses of detections. num_queries: Q, no more than there are tokens. copies: K.

    Source: H-DETR (CVPR 2023), hybrid branch. There the queries of both sets are one list, and the second has proposals
    of its own rank; here both start from the best.
    """

    prefix = "o2m_"

    @configurable
    def __init__(self, channels: int, criterion: SetCriterion, num_queries: int = 300, copies: int = 6) -> None:
        super().__init__()
        self.criterion, self.copies = criterion, copies
        self.content = nn.Embedding(num_queries, channels)
        nn.init.zeros_(self.content.weight)

    @classmethod
    def from_config(cls, cfg: CfgNode, context: BuildContext) -> dict[str, Any]:
        settings = cfg.MODEL.DETR.ONE_TO_MANY
        return {
            "channels": cfg.MODEL.DETR.CHANNELS,
            "criterion": context.criterion,
            "num_queries": settings.QUERIES,
            "copies": settings.COPIES,
        }

    @classmethod
    def refuse_bad_combinations(cls, cfg: CfgNode, name: str) -> None:
        """See `TrainingExtension`."""
        queries, settings = cfg.MODEL.DETR.QUERIES, cfg.MODEL.DETR.ONE_TO_MANY
        if not QUERIES[queries].proposes:
            raise ValueError(
                f'MODEL.TRAINING_EXTENSIONS "{name}" starts from proposals, MODEL.DETR.QUERIES "{queries}" makes none: '
                'choose "Proposals" or "Mixed".'
            )
        for key, number in settings.items():
            if number < 1:
                raise ValueError(f"MODEL.DETR.ONE_TO_MANY.{key} must be at least 1, got {number}.")

    def prepare(self, inputs: TrainingInputs) -> OneToManyPlan:
        """See `TrainingExtension`."""
        boxes, valid = self._best_proposals(inputs)
        content = self.content.weight[: boxes.shape[1]].to(inputs.memory.tokens.dtype)
        queries = QueryGroup(
            ONE_TO_MANY,
            content=content.expand(len(boxes), -1, -1),
            position=inputs.queries.position_of(boxes, content.dtype),
            reference=boxes,
            attends_to=(ONE_TO_MANY,),
            reference_from=ONE_TO_MANY,
            valid=valid,
        )
        return OneToManyPlan((queries,))

    def supervise(self, plan: OneToManyPlan, inputs: TrainingInputs, outputs: TrainingOutputs) -> dict[str, Tensor]:
        """See `TrainingExtension`."""
        copied = inputs.targets.repeated(self.copies)
        predictions = outputs.predictions[ONE_TO_MANY]
        return self.criterion(predictions, copied, inputs.num_objects * self.copies, self.prefix)[0]

    @torch.no_grad()
    def _best_proposals(self, inputs: TrainingInputs) -> tuple[Tensor, Tensor | None]:
        """(B, Q, 4) boxes cxcywh in [0, 1] of the first stage, and (B, Q) bool, which of them are any; None for all."""
        proposed = inputs.initial.predictions
        assert proposed is not None  # `refuse_bad_combinations` lets no other queries pass
        objectness = proposed.logits[0].amax(-1)
        if proposed.valid is not None:
            objectness = objectness.masked_fill(~proposed.valid, -torch.inf)
        number = min(self.content.num_embeddings, objectness.shape[1])
        best, token = objectness.topk(number, dim=1)
        boxes = proposed.boxes[0].gather(1, token[..., None].expand(-1, -1, 4)).detach()
        return boxes, best.isfinite()
