"""Names of tensors: templates with holes, which tables of sources are written in.

"layers.{n}.norm1.{wb}" stands for "layers.0.norm1.weight", "layers.0.norm1.bias", "layers.1.norm1.weight" and so on;
the same holes in another template take the same pieces.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache

HOLES = {
    "n": r"\d+",
    "m": r"\d+",
    "wb": "weight|bias",
    "norm": "weight|bias|running_mean|running_var",  # of a BatchNorm
    "msda": "(?:sampling_offsets|attention_weights|value_proj|output_proj)",  # of multi-scale deformable attention
    "rest": ".+",
}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = re.split(r"\{(\w+)\}", template)  # text, hole, text, hole, …, text
    holes = [f"(?P<{hole}>{HOLES[hole]})" for hole in pieces[1::2]]
    texts = [re.escape(text) for text in pieces[::2]]
    return re.compile("".join(text + hole for text, hole in zip(texts, [*holes, ""])))


def pieces_of(name: str, template: str) -> dict[str, str] | None:
    """What fills the holes of the template to give the name; None where nothing does."""
    found = _pattern(template).fullmatch(name)
    return found.groupdict() if found else None


def matching(names: Iterable[str], template: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The names that the template stands for, each with its pieces."""
    for name in names:
        pieces = pieces_of(name, template)
        if pieces is not None:
            yield name, pieces


def renamed(name: str, table: Mapping[str, str]) -> str | None:
    """The name after the first template that it fits; None where it fits none."""
    for old, new in table.items():
        pieces = pieces_of(name, old)
        if pieces is not None:
            return new.format(**pieces)
    return None


def count(names: Iterable[str], template: str) -> int:
    """How many "{n}" there are, from 0 to the highest in use."""
    return max((int(pieces["n"]) + 1 for _, pieces in matching(names, template)), default=0)


def some(names: Iterable[str], limit: int = 3) -> str:
    """A few names for a message."""
    all_names = list(names)
    more = f" and {len(all_names) - limit} more" if len(all_names) > limit else ""
    return ", ".join(all_names[:limit]) + more
