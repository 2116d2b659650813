"""QueryGroup and QuerySet: the one idea of the house.

Whatever makes the training of a DETR special is more decoder queries that the detection queries may not see. A group
says what its queries are, which groups they may look at, and whose boxes they follow. B images, Q queries, C channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

DETECT = "detect"


@dataclass(frozen=True)
class QueryGroup:
    """Queries with a common purpose.

    Attributes:
        name: unique in its set; "detect" exists at inference too, all others in training only.
        content: (B, Q, C) what a query knows at the start.
        position: (B, Q, C) where it looks, or None where the decoder derives it from the reference.
        reference: (B, Q, 4) boxes cxcywh or (B, Q, 2) points (x, y), in [0, 1] of the unpadded image; without
            gradient unless learned; None without anchors.
        reads: names of the groups that these queries attend to in self-attention, usually their own.
        steered_by: the group whose refined boxes these queries take over after each layer: their own name to refine
            themselves, another of the same size to follow it, None to stay where they started.
        blocked: (Q, Q) or (B, Q, Q) bool, True where a query of the group must not see another of it; None for none.
    """

    name: str
    content: Tensor
    position: Tensor | None
    reference: Tensor | None
    reads: tuple[str, ...]
    steered_by: str | None
    blocked: Tensor | None = None

    def __len__(self) -> int:
        return self.content.shape[1]


@dataclass(frozen=True)
class QuerySet:
    """Groups that go through the decoder together, "detect" first."""

    groups: tuple[QueryGroup, ...]

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if not names or names[0] != DETECT or len(set(names)) < len(names):
            raise ValueError(f'A query set starts with the group "{DETECT}" and names each group once, got {names}.')
        reads, steered_by = self.groups[0].reads, self.groups[0].steered_by
        if reads != (DETECT,) or steered_by not in (None, DETECT):
            raise ValueError(
                f"The detection queries see and follow themselves only, got reads={reads}, steered_by={steered_by!r}."
            )
        widths = {group.reference.shape[-1] for group in self.groups if group.reference is not None}
        if len(widths) > 1:
            raise ValueError(f"All query groups of a set start from points, or all from boxes; {names} mix them.")
        for group in self.groups:
            if group.steered_by not in (None, group.name) and len(self[group.steered_by]) != len(group):
                raise ValueError(f'Group "{group.name}" follows "{group.steered_by}", which has another size.')

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

    def blocked(self) -> Tensor | None:
        """(ΣQ, ΣQ) or (B, ΣQ, ΣQ) bool, True where the row's query must not see the column's; None for no bar."""
        if len(self.groups) == 1 and self.groups[0].blocked is None:
            return None
        batched = [group.blocked for group in self.groups if group.blocked is not None and group.blocked.ndim == 3]
        total = sum(len(group) for group in self.groups)
        shape = (len(batched[0]), total, total) if batched else (total, total)
        mask = torch.ones(shape, dtype=torch.bool, device=self.groups[0].content.device)
        for group in self.groups:
            for read in group.reads:
                mask[..., self.span(group.name), self.span(read)] = False
            if group.blocked is not None:
                own = self.span(group.name)
                mask[..., own, own] |= group.blocked
        return mask

    def steer(self, refined: Tensor, current: Tensor) -> Tensor:
        """References of the next layer: each group takes the boxes of the group that steers it.

        Points become boxes. A point that stays keeps its place, and from its first box on the size of that.

        Args:
            refined: (B, ΣQ, 4) boxes of this layer. current: (B, ΣQ, 2 or 4) references that it started from.
        """
        parts = []
        for group in self.groups:
            source = refined
            if group.steered_by is None:
                source = torch.cat([current, refined[..., current.shape[-1] :]], dim=-1)
            parts.append(source[:, self.span(group.steered_by or group.name)])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    present = [part for part in parts if part is not None]
    if not present:
        return None
    if len(present) < len(parts):
        raise ValueError("Either all query groups of a set have a position (or a reference), or none.")
    return torch.cat(present, dim=1)


def hide(real: Tensor) -> Tensor:
    """(B, Q, Q) bool that hides queries which only fill up, (B, Q) `real` False, from all but themselves."""
    return ~real[:, None, :] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
