"""Query embeddings (ours): where the teacher's queries look, the student says in CLIP's space what the teacher says.

Labels teach base words only. What a teacher of any words makes of other things, it says in the space of the text.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from dk_detr.modeling import CosineText
from projects.DETRDistill.detrdistill.points import SPECIFIC
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import everyone, probabilities
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term


class QueryEmbeddings(Term):
    """1 less the cosine of the embeddings of each of the teacher's queries, weighted by what the teacher's first stage
    takes for an object, or by its best word where it has none; means over the queries of an image so weighted, then
    over images; sums over layers."""

    groups = (SPECIFIC,)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "QueryEmbeddings":
        """See `Term`."""
        for side in (student, teacher):
            compares = isinstance(side.classifier, CosineText)
            if not compares:
                raise ValueError(
                    'MODEL.DETRDISTILL.TERMS "query_embeddings" compares in the space of text embeddings, and the '
                    f'{side.who} has MODEL.DETR.CLASSIFIER.NAME "{type(side.classifier).__name__}": take the term out, '
                    'or choose "CosineText".'
                )
        return cls(kd.QUERY_EMBEDDINGS.WEIGHT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        hidden_states, _ = step.outputs.trace.of(SPECIFIC)
        said = step.teacher.embeddings
        assert said is not None  # of every CosineText
        ours = torch.stack([step.outputs.heads.image_embeddings(hidden_states[k], k) for k in step.stages.student])
        unlike = 1 - F.cosine_similarity(ours.float(), said[list(step.stages.teacher)].float(), dim=-1)
        share = self._share(step)
        weight = step.stages.weights(unlike)[:, None, None] * share / share.shape[1]
        return {"": self.weight * (weight * unlike).sum()}

    @staticmethod
    def _share(step: Step) -> Tensor:
        """(P, B, M), or (1, B, M), of each image 1 in all."""
        _, theirs = step.in_pairs(SPECIFIC)
        objectness = step.teacher.objectness
        certain = probabilities(theirs.logits, "sigmoid").amax(-1) if objectness is None else objectness.sigmoid()[None]
        certain = certain * everyone(theirs)[: len(certain)]
        return certain / certain.sum(-1, keepdim=True).clamp(min=1e-8)
