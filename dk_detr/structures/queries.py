"""QueryGroup and QuerySet: the one idea of the house.

Whatever makes the training of a DETR special is more decoder queries that the detection queries may not see. A group
says what its queries are, which groups they attend to, and whose refined boxes are their next references. B images,
Q queries, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DETECTION = "detection"


@dataclass(frozen=True)
class QueryGroup:
    """Queries with a common purpose.

    Attributes:
        name: unique in its set; "detection" exists at inference too, all others in training only.
        content: (B, Q, C) what a query knows at the start.
        position: (B, Q, C) positional code, or None where the decoder derives it from the reference.
        reference: (B, Q, 4) boxes cxcywh or (B, Q, 2) points (x, y), in [0, 1] of the unpadded image; without
            gradient unless learned; None without anchors.
        attends_to: names of the groups that these queries see in self-attention, usually their own.
        reference_from: the group whose refined boxes are these queries' references in the next layer: their own name
            to refine themselves, another of the same size to follow it, None to stay where they started.
        blocked: (Q, Q) or (B, Q, Q) bool, True where a query of the group must not see another of it; None for none.
        valid: (B, Q) bool, False for queries that only fill up an image with fewer of them: nobody sees them, and
            their predictions do not count; None where all are valid.
    """

    name: str
    content: Tensor
    position: Tensor | None
    reference: Tensor | None
    attends_to: tuple[str, ...]
    reference_from: str | None
    blocked: Tensor | None = None
    valid: Tensor | None = None

    def __len__(self) -> int:
        return self.content.shape[1]

    def inner_mask(self) -> Tensor | None:
        """(Q, Q) or (B, Q, Q) bool, True where a query must not see another of its group; None for none. A query that
        only fills up is hidden from all but itself."""
        if self.valid is None:
            return self.blocked
        itself = torch.eye(len(self), dtype=torch.bool, device=self.valid.device)
        hidden = ~self.valid[:, None, :] & ~itself
        return hidden if self.blocked is None else self.blocked | hidden


@dataclass(frozen=True)
class QuerySet:
    """Groups that go through the decoder together, "detection" first."""

    groups: tuple[QueryGroup, ...]

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or names[0] != DETECTION or len(set(names)) < len(names):
            raise ValueError(f'A query set starts with the group "{DETECTION}" and names each group once, got {names}.')
        seen, followed = self.groups[0].attends_to, self.groups[0].reference_from
        if seen != (DETECTION,) or followed not in (None, DETECTION):
            raise ValueError(
                "The detection queries see and follow themselves only, got "
                f"attends_to={seen}, reference_from={followed!r}."
            )
        widths = {group.reference.shape[-1] for group in self.groups if group.reference is not None}
        if len(widths) > 1:
            raise ValueError(f"All query groups of a set start from points, or all from boxes; {names} mix them.")
        for group in self.groups:
            if group.reference_from not in (None, group.name) and len(self[group.reference_from]) != len(group):
                raise ValueError(f'Group "{group.name}" follows "{group.reference_from}", which has another size.')

    def __getitem__(self, name: str) -> QueryGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(f'There is no query group "{name}", only {[group.name for group in self.groups]}.')

    @property
    def content(self) -> Tensor:
        """(B, ΣQ, C) of all groups."""
        return torch.cat([group.content for group in self.groups], dim=1)

    @property
    def position(self) -> Tensor | None:
        """(B, ΣQ, C) of all groups, or None."""
        return _cat([group.position for group in self.groups])

    @property
    def reference(self) -> Tensor | None:
        """(B, ΣQ, 2 or 4) of all groups, or None."""
        return _cat([group.reference for group in self.groups])

    def span(self, name: str) -> slice:
        """Where a group lies on the query axis."""
        start = 0
        for group in self.groups:
            if group.name == name:
                return slice(start, start + len(group))
            start += len(group)
        raise KeyError(name)

    def attention_mask(self) -> Tensor | None:
        """(ΣQ, ΣQ) or (B, ΣQ, ΣQ) bool for self-attention, True where the row's query must not see the column's; None
        where all see all."""
        inner = {group.name: group.inner_mask() for group in self.groups}
        if len(self.groups) == 1 and inner[DETECTION] is None:
            return None
        batched = [mask for mask in inner.values() if mask is not None and mask.ndim == 3]
        total = sum(len(group) for group in self.groups)
        shape = (batched[0].shape[0], total, total) if batched else (total, total)
        blocked = torch.ones(shape, dtype=torch.bool, device=self.groups[0].content.device)
        for group in self.groups:
            rows = self.span(group.name)
            for seen in group.attends_to:
                blocked[..., rows, self.span(seen)] = False
            mask = inner[group.name]
            if mask is not None:
                blocked[..., rows, rows] |= mask
        return blocked

    def next_references(self, refined: Tensor, current: Tensor) -> Tensor:
        """References of the next layer: each group takes the boxes of the group that it follows.

        Points become boxes. A point that stays keeps its centre and takes the size of its first layer's box.

        Args:
            refined: (B, ΣQ, 4) boxes of this layer. current: (B, ΣQ, 2 or 4) references that it started from.
        """
        parts = []
        for group in self.groups:
            source = refined
            if group.reference_from is None:
                source = torch.cat([current, refined[..., current.shape[-1] :]], dim=-1)
            parts.append(source[:, self.span(group.reference_from or group.name)])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if len(present) < len(parts):
        raise ValueError("Either all query groups of a set have a position (or a reference), or none.")
    return torch.cat(present, dim=1)
