"""The result of a conversion."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Conversion:
    """Weights under the names of this project, and an account of every tensor that they came from.

    Attributes:
        source: the kind of checkpoint. state: for MODEL.WEIGHTS; empty where it gives no part of a detector.
        used: name in the source -> names in the result. listed: name (or part) -> reason why it is not used.
        settings: config keys that the shapes and names imply. config: the file of configs/ that comes closest; "" for
            none. notes: what the user has to know besides. clip: for MODEL.CLIP.WEIGHTS; mostly empty.
    """

    source: str
    state: dict[str, Tensor]
    used: dict[str, list[str]]
    listed: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    notes: tuple[str, ...] = ()
    clip: dict[str, Tensor] = field(default_factory=dict)

    @property
    def report(self) -> dict[str, Any]:
        """The account in plain lists and dicts, for the file."""
        return {
            "source": self.source,
            "used": self.used,
            "listed": self.by_reason(),
            "settings": self.settings,
            "config": self.config,
            "notes": list(self.notes),
        }

    def by_reason(self) -> dict[str, list[str]]:
        """Reason -> the names that are listed for it."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name, reason in self.listed.items():
            groups[reason].append(name)
        return dict(groups)
