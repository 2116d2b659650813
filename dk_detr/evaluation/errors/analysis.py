"""The errors of a detector by group of words. N detections, G objects, K categories."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.errors.kinds import NEAR_OBJECT, Findings, Kind, classify, images_at_a_time
from dk_detr.evaluation.errors.oracles import ap50, ap50_with_oracles
from dk_detr.evaluation.evaluate import read_files
from dk_detr.evaluation.ground_truth import FREQUENCIES, GroundTruth
from dk_detr.evaluation.protocols import COCO, Groups
from dk_detr.evaluation.recall import BUDGETS, best_distinct, class_agnostic_pairs, finders

ALL = "all"
FREQUENCY_GROUPS = dict(zip(FREQUENCIES, ("rare", "common", "frequent")))
RECALL_IOUS = np.array([0.5, 0.75])
TENTHS = np.arange(1, 10) / 10
MOST_CONFUSIONS = 100
ABSENT = "absent"
SHARES = (*(kind.name.lower() for kind in Kind if kind != Kind.IGNORED), ABSENT)
"""What the n best detections of a word with n objects are; ABSENT is what a word has fewer than n."""


class GroupErrors(NamedTuple):
    """A group of words; all numbers in points or per cent, nan where there is no object.

    Attributes:
        words: that have objects. objects: that are to be found. ap50: as the protocol has it.
        best: by SHARES, of the n best detections of a word with n objects; mean over words, as in AP; sums to 100.
        gains: what each of ORACLES would add to ap50.
        seen: objects with a detection on them (IoU 0.5), of any word. right_word: of these, those whose best-scoring
            detection has the right word.
        recall: class-agnostic, "AR50@100": of objects at IoU 0.5 among the 100 best boxes of an image, one to one.
        best_iou: objects by the IoU of the nearest of the 300 best boxes, in tenths from 0 to 1; sums to 100.
    """

    words: int
    objects: int
    ap50: float
    best: dict[str, float]
    gains: dict[str, float]
    seen: float
    right_word: float
    recall: dict[str, float]
    best_iou: list[float]


class Confusion(NamedTuple):
    """Objects of a word whose best-scoring detection has another word. share: per cent of its seen objects."""

    word: str
    novel: bool
    taken_for: str
    objects: int
    share: float


class WordErrors(NamedTuple):
    """A word with objects; see `GroupErrors`."""

    word: str
    novel: bool
    objects: int
    ap50: float
    best: dict[str, float]
    right_word: float


class Analysis(NamedTuple):
    """Where a detector errs. groups: by name. confusions: the most frequent first. words: the lowest AP50 first."""

    title: str
    groups: dict[str, GroupErrors]
    confusions: list[Confusion]
    words: list[WordErrors]


def analyse_files(
    annotations: str,
    results: str,
    protocol: str,
    novel: Collection[str] | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
    iou_type: str = "bbox",
) -> Analysis:
    """The errors of what any detector found; see `evaluate_file` for arguments and errors.

    Raises: ValueError, too, where a further group has the name of one that is always there, and where the annotation
        file has no object that is to be found.
    """
    reserved = (ALL, "base", "novel", *FREQUENCY_GROUPS.values())
    taken = [name for name in groups or {} if name in reserved]
    if taken:
        raise ValueError(f'The group "{taken[0]}" is always there; name another than {", ".join(reserved)}.')
    files = read_files(annotations, results, protocol, novel, groups, iou_type)
    if files.protocol.ignored(files.ground_truth).all():
        raise ValueError(f"{annotations} has no object that is to be found; there is nothing to analyse.")
    return analyse(*files)


def analyse(protocol: COCO, ground_truth: GroundTruth, found: Detections, groups: Groups) -> Analysis:
    """The errors by group: of all words, of each of these, and, in files of LVIS, by frequency.

    Args:
        groups: category indices by name; "novel" says which words are.
    """
    novel, names = set(groups["novel"]), ground_truth.names
    findings = classify(protocol, ground_truth, found, novel)
    by_word = _by_word(protocol, findings, len(names))
    by_object = _by_object(protocol, ground_truth, found, findings)
    chosen = {ALL: range(len(names)), **groups, **_by_frequency(ground_truth)}
    return Analysis(
        protocol.title,
        {name: _group(by_word, by_object, list(members)) for name, members in chosen.items()},
        _confusions(by_object, findings, names, novel),
        _words(by_word, by_object, names, novel),
    )


def as_record(analysis: Analysis) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "protocol": analysis.title,
        "groups": {name: group._asdict() for name, group in analysis.groups.items()},
        "confusions": [confusion._asdict() for confusion in analysis.confusions],
        "words": [word._asdict() for word in analysis.words],
    }


def _by_frequency(ground_truth: GroundTruth) -> dict[str, list[int]]:
    members = {
        name: [k for k, frequency in enumerate(ground_truth.frequencies) if frequency == letter]
        for letter, name in FREQUENCY_GROUPS.items()
    }
    return members if any(members.values()) else {}


class _ByWord(NamedTuple):
    """objects: (K,) that are to be found. best: (K, len(SHARES)), nan without objects. ap50 and with each oracle: (K,);
    all fractions."""

    objects: np.ndarray
    best: np.ndarray
    ap50: np.ndarray
    with_oracle: dict[str, np.ndarray]


def _by_word(protocol: COCO, findings: Findings, num_words: int) -> _ByWord:
    objects = np.bincount(findings.objects.category[~findings.ignored], minlength=num_words)
    best = _best_of_words(findings, objects)
    with_oracle = ap50_with_oracles(protocol, findings, num_words)
    return _ByWord(objects, best, ap50(protocol, findings, num_words), with_oracle)


def _best_of_words(findings: Findings, num_objects: np.ndarray) -> np.ndarray:
    """(K, len(SHARES)) what the n best detections of each word are, fractions of its n objects."""
    rows = np.flatnonzero(findings.kind != Kind.IGNORED)
    rows = rows[np.lexsort((-findings.detections.score[rows], findings.detections.category[rows]))]  # AP's order
    category = findings.detections.category[rows]
    rank = np.arange(len(rows)) - np.searchsorted(category, category)
    chosen = rank < num_objects[category]
    cell = category[chosen] * len(SHARES) + findings.kind[rows[chosen]]
    counts = np.bincount(cell, minlength=len(num_objects) * len(SHARES)).reshape(-1, len(SHARES))
    counts[:, SHARES.index(ABSENT)] = num_objects - counts.sum(axis=1)
    fractions = np.full(counts.shape, np.nan)
    np.divide(counts, num_objects[:, None], out=fractions, where=num_objects[:, None] > 0)
    return fractions


class _ByObject(NamedTuple):
    """Of the objects that are to be found. category: (G,). seen, right: (G,) bool. taken_for: (G,) category of the best
    detection, where seen. rank: (G, 2) at RECALL_IOUS, see `finders`. tenth: (G,) of the IoU of the nearest box."""

    category: np.ndarray
    seen: np.ndarray
    right: np.ndarray
    taken_for: np.ndarray
    rank: np.ndarray
    tenth: np.ndarray


def _by_object(protocol: COCO, ground_truth: GroundTruth, found: Detections, findings: Findings) -> _ByObject:
    counts, objects, crowd = ~findings.ignored, ground_truth.objects, protocol.crowd(ground_truth)
    rank, nearest = np.full((len(objects), len(RECALL_IOUS)), np.inf), np.zeros(len(objects))
    for rows, things in images_at_a_time(found, objects):
        boxes = best_distinct(found.take(rows), max(BUDGETS))
        pairs = class_agnostic_pairs(boxes, objects.take(things), crowd[things], NEAR_OBJECT)
        rank[things] = finders(boxes, pairs, findings.ignored[things], crowd[things], RECALL_IOUS)
        np.maximum.at(nearest, things[pairs.object], pairs.iou)
    category, best = objects.category[counts], findings.best[counts]
    taken_for = np.append(findings.detections.category, -1)[best]
    seen = best >= 0
    tenth = np.digitize(nearest[counts], TENTHS)
    return _ByObject(category, seen, seen & (taken_for == category), taken_for, rank[counts], tenth)


def _group(by_word: _ByWord, by_object: _ByObject, members: Sequence[int]) -> GroupErrors:
    words = [k for k in members if by_word.objects[k]]
    inside = np.isin(by_object.category, words)
    points = _mean(by_word.ap50[words])
    histogram = np.bincount(by_object.tenth[inside], minlength=len(TENTHS) + 1)
    return GroupErrors(
        words=len(words),
        objects=int(inside.sum()),
        ap50=points,
        best={name: _mean(by_word.best[words, column]) for column, name in enumerate(SHARES)},
        gains={name: _mean(ap[words]) - points for name, ap in by_word.with_oracle.items()},
        seen=_mean(by_object.seen[inside]),
        right_word=_mean(by_object.right[inside & by_object.seen]),
        recall={
            f"AR{100 * iou:.0f}@{budget}": _mean(by_object.rank[inside, t] < budget)
            for t, iou in enumerate(RECALL_IOUS)
            for budget in BUDGETS
        },
        best_iou=[100 * count / inside.sum() if inside.any() else float("nan") for count in histogram.tolist()],
    )


def _mean(fractions: np.ndarray) -> float:
    """In per cent; nan of nothing."""
    return 100 * float(fractions.mean()) if len(fractions) else float("nan")


def _confusions(by_object: _ByObject, findings: Findings, names: Sequence[str], novel: set[int]) -> list[Confusion]:
    wrong = by_object.seen & ~by_object.right
    pairs = np.stack([by_object.category[wrong], by_object.taken_for[wrong]], axis=1)
    kinds, counts = np.unique(pairs, axis=0, return_counts=True)
    seen = np.bincount(by_object.category[by_object.seen], minlength=len(names))
    order = np.lexsort((kinds[:, 1], kinds[:, 0], -counts))[:MOST_CONFUSIONS]
    return [
        Confusion(names[word], word in novel, names[other], count, 100 * count / int(seen[word]))
        for (word, other), count in zip(kinds[order].tolist(), counts[order].tolist())
    ]


def _words(by_word: _ByWord, by_object: _ByObject, names: Sequence[str], novel: set[int]) -> list[WordErrors]:
    seen = np.bincount(by_object.category[by_object.seen], minlength=len(names))
    right = np.bincount(by_object.category[by_object.right], minlength=len(names))
    order = np.argsort(by_word.ap50, kind="stable")
    return [
        WordErrors(
            names[k],
            k in novel,
            int(by_word.objects[k]),
            100 * float(by_word.ap50[k]),
            {name: 100 * float(share) for name, share in zip(SHARES, by_word.best[k])},
            100 * int(right[k]) / int(seen[k]) if seen[k] else float("nan"),
        )
        for k in order[by_word.objects[order] > 0].tolist()
    ]
