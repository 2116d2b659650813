"""How many images, annotations and categories a file has, beside how many it should have."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tabulate import tabulate

from dk_detr.annotations.streaming import LISTS

Rule = Literal["published", "any"]
"""Which numbers a file may have."""


@dataclass(frozen=True)
class Published:
    """The numbers of a published split; a list that is not named has none that we know.

    Attributes:
        numbers: by list ("images", "annotations", "categories"). source: who says so.
    """

    numbers: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class Written:
    """A file that was made, what it holds, and what was noticed on the way.

    Attributes:
        read: how many records the source has; None where there is no such file.
    """

    path: str
    counts: Counter[str]
    published: Published | None = None
    notes: tuple[str, ...] = ()
    read: Counter[str] | None = None

    def report(self) -> str:
        """Some lines for the terminal: what was found, and what of the source is not in the file."""
        rows = [[name, self.counts[name], _expected(self.published, name)] for name in LISTS]
        source = f"expected ({self.published.source})" if self.published else "expected"
        return "\n".join([self.path, tabulate(rows, ["", "found", source]), *self._left_out(), *self.notes])

    def _left_out(self) -> tuple[str, ...]:
        missing = {name: self.read[name] - self.counts[name] for name in LISTS} if self.read else {}
        told = ", ".join(f"{number} {name}" for name, number in missing.items() if number)
        return (f"Left out of its source: {told}.",) if told else ()


def _expected(published: Published | None, name: str) -> str:
    return str(published.numbers[name]) if published and name in published.numbers else "-"


@dataclass(frozen=True)
class Accept:
    """Refuses a file whose numbers are not the published ones.

    Attributes:
        target: the file that would be written. rule: "any" accepts all numbers, as where none are published.
    """

    target: str
    published: Published | None
    rule: Rule = "published"

    def __call__(self, counts: Counter[str]) -> None:
        """Raises ValueError with all numbers if one differs."""
        if self.published is None or self.rule == "any":
            return
        numbers = self.published.numbers
        if any(counts[name] != number for name, number in numbers.items()):
            found = ", ".join(f"{counts[name]} {name}" for name in LISTS)
            wanted = ", ".join(f"{number} {name}" for name, number in numbers.items())
            raise ValueError(
                f"{self.target} would have {found}; expected are {wanted} ({self.published.source}). It was not "
                "written. Is the source the whole official file? For a part of it, or where you know better, add "
                "--counts any."
            )
