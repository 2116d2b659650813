"""An analysis of errors as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tabulate import tabulate

from dk_detr.evaluation.errors.analysis import ALL, Analysis, GroupErrors

SHARE_TITLES = {
    "hit": "hit", "confused_with_base": "confused with base", "confused_with_novel": "confused with novel",
    "duplicate": "duplicate", "loose": "loose box", "part": "part of another object", "background": "background",
    "absent": "no detection",
}  # fmt: skip
GAIN_TITLES = {
    "class": "right words", "location": "tight boxes", "class_and_location": "no parts of other objects",
    "duplicates": "no duplicates", "background": "nothing on background", "missed": "no missed objects",
}  # fmt: skip
"""What is said of an oracle: with …, AP50 would be higher by …"""
SHOWN_CONFUSIONS = 10
LEAST_TOLD = 0.05  # points


def report(analysis: Analysis, what: str = "boxes", confusions: int = SHOWN_CONFUSIONS) -> str:
    """The answer in sentences, and the tables behind it.

    Args:
        what: is compared, boxes or masks. confusions: how many are listed, at most.
    """
    verdicts = [f"- {verdict(name, group)}" for name, group in analysis.groups.items() if group.objects]
    tables = {
        "Of the n best detections of a word with n objects, in %, mean over words:": _shares(analysis),
        "AP50 in points, and what would be added to it with": _gains(analysis),
        "Objects with a detection on them, and of these those with the right word, in %; class-agnostic recall:":
            _objects(analysis),
        "Objects by the IoU of the nearest box, whatever its word, in %:": _histogram(analysis),
    }  # fmt: skip
    if analysis.confusions:
        title = "The most frequent confusions, of the best-scoring detection on an object:"
        tables[title] = _confusions(analysis, confusions)
    head = f"{analysis.title}, {what}, at IoU 0.5 where nothing else is said.\n\n" + "\n".join(verdicts)
    return "\n\n".join([head, *(f"{title}\n\n{table}" for title, table in tables.items())])


def verdict(name: str, group: GroupErrors) -> str:
    """One sentence: what costs a group most."""
    worst = sorted(group.gains.items(), key=lambda item: -item[1])[:2]
    told = " or ".join(f"{GAIN_TITLES[oracle]} ({gain:+.1f})" for oracle, gain in worst if gain >= LEAST_TOLD)
    who = "all words" if name == ALL else f"{name} words"
    return f"{who}: AP50 {group.ap50:.1f}" + (f"; most would be won with {told}." if told else ".")


def word_table(analysis: Analysis) -> str:
    """One row for each word with objects, the lowest AP50 first."""
    rows = [
        [word.word, int(word.novel), word.objects, word.ap50, *word.best.values(), word.right_word]
        for word in analysis.words
    ]
    return _table(["word", "novel", "objects", "AP50", *SHARE_TITLES.values(), "right word"], rows)


def _shares(analysis: Analysis) -> str:
    rows = ((group.words, group.objects, *group.best.values()) for group in analysis.groups.values())
    return _by_group(analysis, ["words", "objects", *SHARE_TITLES.values()], rows)


def _gains(analysis: Analysis) -> str:
    rows = ((group.ap50, *group.gains.values()) for group in analysis.groups.values())
    return _by_group(analysis, ["AP50", *GAIN_TITLES.values()], rows)


def _objects(analysis: Analysis) -> str:
    rows = ((group.seen, group.right_word, *group.recall.values()) for group in analysis.groups.values())
    return _by_group(analysis, ["seen", "right word", *analysis.groups[ALL].recall], rows)


def _histogram(analysis: Analysis) -> str:
    titles = [f"{tenth / 10:.1f} to {(tenth + 1) / 10:.1f}" for tenth in range(10)]
    return _by_group(analysis, titles, (group.best_iou for group in analysis.groups.values()))


def _confusions(analysis: Analysis, count: int) -> str:
    rows = [(c.word, int(c.novel), c.taken_for, c.objects, c.share) for c in analysis.confusions[:count]]
    return _table(["word", "novel", "taken for", "objects", "% of the word's"], rows)


def _by_group(analysis: Analysis, titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    return _table(["group", *titles], [[name, *row] for name, row in zip(analysis.groups, rows)])


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [[_cell(value) for value in row] for row in rows]
    aligned = ["left" if title in ("group", "word", "taken for") else "right" for title in titles]
    return tabulate(cells, titles, "pipe", disable_numparse=True, colalign=aligned if cells else None)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value + 0.0:.1f}"
    return str(value).replace("|", r"\|")
