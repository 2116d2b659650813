"""Query embeddings (ours): where the teacher's queries look, the student says in CLIP's space what the teacher says.

Labels teach base words only. What a teacher of any words makes of other things, it says in the space of the text.
"""

import torch
from detectron2.config import CfgNode
from torch import Tensor
from torch.nn import functional as F

from projects.DETRDistill.detrdistill.points import SPECIFIC
from projects.DETRDistill.detrdistill.side import Side
from projects.DETRDistill.detrdistill.soft import counted_queries, probabilities, shares
from projects.DETRDistill.detrdistill.step import Step
from projects.DETRDistill.detrdistill.terms.term import Term


class QueryEmbeddings(Term):
    """1 less the cosine of both embeddings of each of the teacher's queries. Queries are weighted by what the teacher's
    first stage takes for an object, without a first stage by the probability of its best word: weighted means over an
    image, then means over images; sums over layers.

    Args:
        activation: of the teacher's classifier. weight: of the loss.
    """

    groups = (SPECIFIC,)
    compares_classes = False

    def __init__(self, activation: str, weight: float = 1.0) -> None:
        super().__init__()
        self.activation, self.weight = activation, weight

    @classmethod
    def build(cls, kd: CfgNode, student: Side, teacher: Side) -> "QueryEmbeddings":
        """See `Term`."""
        for side in (student, teacher):
            if not side.compares_text:
                raise ValueError(
                    'MODEL.DETRDISTILL.TERMS "query_embeddings" compares in the space of text embeddings, and the '
                    f'{side.who} has MODEL.DETR.CLASSIFIER.NAME "{side.classifier}": take the term out, '
                    'or choose "CosineText".'
                )
        return cls(teacher.activation, kd.QUERY_EMBEDDINGS.WEIGHT)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """See `Term`."""
        hidden_states, _ = step.outputs.trace.of(SPECIFIC)
        said = step.teacher.embeddings
        assert said is not None  # of every CosineText
        ours = torch.stack([step.outputs.heads.image_embeddings(hidden_states[k], k) for k in step.stages.student])
        unlike = 1 - F.cosine_similarity(ours.float(), step.stages.of_teacher(said).float(), dim=-1)
        share = self._share(step)
        weight = step.stages.weights(unlike)[:, None, None] * share / share.shape[1]
        return {"": self.weight * (weight * unlike).sum()}

    def _share(self, step: Step) -> Tensor:
        """(P, B, M), or (1, B, M), of each image 1 in all."""
        theirs, objectness = step.teacher.detections, step.teacher.objectness
        if objectness is not None:
            return shares(objectness.sigmoid()[None], counted_queries(theirs)[:1])
        certain = probabilities(step.stages.of_teacher(theirs.logits), self.activation).amax(-1)
        return shares(certain, step.stages.of_teacher(counted_queries(theirs)))
