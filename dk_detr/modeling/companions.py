"""Companions: a query beside each detection query, at its proposal, that learns from the teacher alone.

B images, Q queries, C channels.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dk_detr.structures import DETECTION, QueryGroup

AUXILIARY = "auxiliary"


class Companions(nn.Module):
    """The auxiliary queries of DK-DETR, part of a detector that asks them for novel words at inference, too.

    Args:
        num_queries: Q. channels: C. attends_to, reference: see `companions_of`.

    Source: DK-DETR (ICCV 2023), where they are left out at inference.
    """

    def __init__(self, num_queries: int, channels: int, attends_to: Sequence[str], reference: str) -> None:
        super().__init__()
        self.content = zero_contents(num_queries, channels)
        self.attends_to, self.reference = tuple(attends_to), reference

    def forward(self, detection: QueryGroup) -> QueryGroup:
        """See `companions_of`."""
        return companions_of(detection, self.content.weight, self.attends_to, self.reference)


def companions_of(
    detection: QueryGroup, content: Tensor, attends_to: tuple[str, ...], reference: str
) -> QueryGroup:
    """Queries at the same positions and references.

    Args:
        content: (at least Q, C) what they know at the start. attends_to: groups that they see in self-attention.
        reference: "follow" the refined boxes of the detection queries, or "stay" at the proposals, where the teacher
            looks.
    """
    return QueryGroup(
        AUXILIARY,
        content=of_each_image(content[: len(detection)], detection),
        position=detection.position,
        reference=detection.reference,
        attends_to=attends_to,
        reference_from=DETECTION if reference == "follow" else None,
        valid=detection.valid,
    )


def zero_contents(number: int, channels: int) -> nn.Embedding:
    """Zero, not noise: all slots start alike, and near what detection queries know. Noise cost the mini world 7 points
    of base and 5 of novel AP50 (configs/mini/README.md)."""
    content = nn.Embedding(number, channels)
    nn.init.zeros_(content.weight)
    return content


def of_each_image(content: Tensor, detection: QueryGroup) -> Tensor:
    """(Q, C) -> (B, Q, C) beside the detection queries."""
    return content.to(detection.content.dtype).expand(len(detection.content), -1, -1)
