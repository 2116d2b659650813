"""Which names are novel, that is, never have a box in training. All that need to know ask here.

A benchmark says it by a list of names (OV-COCO), or by a mark of the categories in its annotation files (LVIS: rare).
A user and a vocabulary can say it, too; `choose_novel` is the rule which of them counts. What a detector was not
trained for is another question, which its own words answer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dk_detr.annotations.ov_coco import BASE, NOVEL


class Split(NamedTuple):
    """The names of a benchmark."""

    base: tuple[str, ...]
    novel: tuple[str, ...]


SPLITS: Mapping[str, Split] = {"ov-coco": Split(tuple(BASE), tuple(NOVEL))}
"""Benchmarks that list their novel names, by what data sets and tools/score.py call them."""
MARKED = ("lvis", "lvis-fixed")  # benchmarks whose annotation files mark them


def choose_novel(
    told: Collection[str] | None = None,
    listed: Collection[str] | None = None,
    vocabulary: Collection[str] | None = None,
    marked: Collection[str] | None = None,
) -> tuple[str, ...]:
    """The novel names, by the first that says which; none where nobody does.

    Args:
        told: by the user; an empty list says that no name is novel. listed: by the benchmark (see `SPLITS`), or by a
            data set. vocabulary: the novel names of a vocabulary. marked: in an annotation file. None: says nothing.
    """
    claims = (told, listed, vocabulary, marked)
    return tuple(next((claim for claim in claims if claim is not None), ()))


def is_marked_novel(category: Mapping[str, Any]) -> bool:
    """Whether an annotation file marks a category as novel: rare in LVIS, "unseen" in files of OV-COCO."""
    return category.get("frequency") == "r" or category.get("split") == "unseen"


def marked_novel(categories: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the categories that are marked as novel."""
    return tuple(category["name"] for category in categories if is_marked_novel(category))


def novel_of_benchmark(benchmark: str, categories: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of these categories that are novel where the user says nothing; none where the benchmark does not say.

    Raises: ValueError, an ending for "… has", where a benchmark lists names and these are none of them.
    """
    names = [category["name"] for category in categories]
    if benchmark not in SPLITS:
        return choose_novel(marked=marked_novel(categories) if benchmark in MARKED else None)
    base, novel = SPLITS[benchmark]
    if not {*base, *novel}.intersection(names):
        raise ValueError(f"none of the {len(base) + len(novel)} categories of {benchmark.upper()}")
    return choose_novel(listed=[name for name in names if name in novel])
