"""What AP50 would be if one kind of error did not happen. N detections, G objects, K categories.

Source: TIDE (Bolya et al., ECCV 2020, section 2.3), whose oracles these are. What they add does not sum to what AP50
lacks: one error hides another. Differences: AP is the protocol's own, and `classify` says which error a detection is.
Where an oracle gives an object a second detection, the better score stays, as the paper says; its code keeps the hit.
A word of which all objects are missed has AP 1 once none is missed; in its code it has 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from dk_detr.evaluation.average_precision import average_precision
from dk_detr.evaluation.errors.kinds import CONFUSED, Findings, Kind
from dk_detr.evaluation.matching import Matches
from dk_detr.evaluation.protocols import COCO


def ap50(protocol: COCO, findings: Findings, num_categories: int) -> np.ndarray:
    """(K,) AP of each category at IoU 0.5, a fraction; nan without objects."""
    rows = np.flatnonzero(findings.match >= 0)
    matches = Matches(rows, findings.match[rows, None, None])
    ap = average_precision(
        findings.detections, matches, findings.objects, findings.ignored[:, None], findings.unjudged[:, None],
        protocol.recall_points, num_categories,
    )  # fmt: skip
    return ap[0, :, 0]


def ap50_with_oracles(protocol: COCO, findings: Findings, num_categories: int) -> dict[str, np.ndarray]:
    """(K,) AP of each category at IoU 0.5 with each of ORACLES, a fraction; nan without objects."""
    without_objects = np.bincount(findings.objects.category, ~findings.ignored, num_categories) == 0
    answers = {}
    for name, oracle in ORACLES.items():
        ap = ap50(protocol, oracle(findings), num_categories)
        answers[name] = np.where(np.isnan(ap) & ~without_objects, 1.0, ap)  # all were missed, and nothing is any more
    return answers


def _mend(*kinds: Kind) -> Callable[[Findings], Findings]:
    """An oracle that lets detections of these kinds find their object; of several for one, the best score stays."""

    def mended(findings: Findings) -> Findings:
        """The findings once they have."""
        hit = findings.kind == Kind.HIT
        claims = np.isin(findings.kind, kinds) | hit
        rows = np.flatnonzero(claims)
        rows = rows[np.lexsort((hit[rows], findings.detections.score[rows]))]  # of equal scores the hit stays
        winner = np.full(len(findings.objects), -1, dtype=np.int64)
        winner[findings.target[rows]] = rows
        things = np.flatnonzero(winner >= 0)
        category, match = findings.detections.category.copy(), findings.match.copy()
        category[winner[things]], match[winner[things]] = findings.objects.category[things], things
        keep = ~claims
        keep[winner[things]] = True
        chosen = np.flatnonzero(keep)
        chosen = chosen[np.argsort(category[chosen], kind="stable")]
        changed = replace(findings.detections, category=category)
        return _take(replace(findings, detections=changed, match=match), chosen)

    return mended


def _remove(*kinds: Kind) -> Callable[[Findings], Findings]:
    """An oracle that removes detections of these kinds."""
    return lambda findings: _take(findings, np.flatnonzero(~np.isin(findings.kind, kinds)))


def _forget_missed(findings: Findings) -> Findings:
    """An oracle that counts no object as missed, but those that mending a word or a box would find."""
    mendable = np.isin(findings.kind, (Kind.HIT, *CONFUSED, Kind.LOOSE))
    missed = np.ones(len(findings.objects), dtype=bool)
    missed[findings.target[mendable]] = False
    return replace(findings, ignored=findings.ignored | missed)


def _take(findings: Findings, rows: Sequence[int] | np.ndarray) -> Findings:
    columns = {name: getattr(findings, name)[rows] for name in ("kind", "match", "unjudged", "target")}
    return replace(findings, detections=findings.detections.take(np.asarray(rows)), **columns)


ORACLES: dict[str, Callable[[Findings], Findings]] = {
    "class": _mend(*CONFUSED),
    "location": _mend(Kind.LOOSE),
    "class_and_location": _remove(Kind.PART),
    "duplicates": _remove(Kind.DUPLICATE),
    "background": _remove(Kind.BACKGROUND),
    "missed": _forget_missed,
}
"""By what no longer happens: a wrong word, a loose box, both at once, duplicates, detections of nothing, misses."""
