"""StoredEmbeddings: the teacher's answers for regions that were chosen beforehand, from an embedding bank.

B images, M regions of the richest image, N regions, E width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from dk_detr.layers import to_normalized_cxcywh
from dk_detr.modeling import InitialQueries
from dk_detr.structures import Candidates, Regions, TeacherInput, Vocabulary


class StoredEmbeddings:
    """Reads what the mapper put into the samples. No CLIP is loaded.

    Args:
        width: E.

    Source: ViLD (ICLR 2022), offline proposals.
    """

    @configurable
    def __init__(self, width: int) -> None:
        self.width = width

    @classmethod
    def from_config(cls, cfg: CfgNode, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"width": vocabulary.width}

    def candidates(self, shown: TeacherInput, initial: InitialQueries) -> Candidates:
        """The stored regions of the images, wherever the detector looks."""
        return _stored(shown)

    @torch.no_grad()
    def ask(self, shown: TeacherInput, regions: Regions) -> Callable[[], Tensor]:
        """Look up. Raises ValueError for embeddings of another width."""
        embeddings = _stored(shown).embeddings
        assert embeddings is not None
        if embeddings.shape[-1] != self.width:
            raise ValueError(
                f"The embedding bank (MODEL.TEACHER.BANK) holds rows of width {embeddings.shape[-1]}, but the "
                f"vocabulary has width {self.width}: both must come from the same CLIP."
            )
        rows = F.normalize(embeddings[regions.image, regions.query].float(), dim=-1)
        return lambda: rows


def _stored(shown: TeacherInput) -> Candidates:
    if shown.stored is None:
        raise ValueError(
            'MODEL.TEACHER.NAME "EmbeddingBank" needs samples with "regions"; use dk_detr\'s mapper (dk_detr.data).'
        )
    return shown.stored


def stored_candidates(batched_inputs: Sequence[dict[str, Any]], device: torch.device) -> Candidates | None:
    """What samples have under "regions" (see `candidates_of`, with embeddings), or None."""
    if "regions" not in batched_inputs[0]:
        return None
    return candidates_of([given["regions"].to(device) for given in batched_inputs])


def candidates_of(proposals: Sequence[Instances]) -> Candidates:
    """The proposals of each image, the best first: Instances with proposal_boxes, objectness_logits, and maybe
    embeddings."""
    boxes = [to_normalized_cxcywh(one.proposal_boxes.tensor, one.image_size) for one in proposals]
    objectness = [one.objectness_logits.float() for one in proposals]
    embeddings = [one.embeddings for one in proposals if one.has("embeddings")]
    return Candidates(
        pad_sequence(boxes, batch_first=True),
        pad_sequence(objectness, batch_first=True, padding_value=-torch.inf),
        pad_sequence(embeddings, batch_first=True) if embeddings else None,
    )
