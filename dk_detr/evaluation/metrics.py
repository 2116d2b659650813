"""All metrics of a protocol: its own, those of groups of categories, and class-agnostic recall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import GroundTruth
from dk_detr.evaluation.protocols import COCO, CategoryAP, Groups
from dk_detr.evaluation.recall import class_agnostic_recall


class Evaluation(NamedTuple):
    """What an evaluation says: metrics in points, nan without objects; and the AP of each category."""

    metrics: dict[str, float]
    category_ap: CategoryAP


def compute_metrics(protocol: COCO, ground_truth: GroundTruth, found: Detections, groups: Groups) -> Evaluation:
    """All metrics of a protocol: "AP", "AP50-novel", "AR@100-base" …

    Args:
        groups: category indices by name.
    """
    category_ap = protocol.accumulate(ground_truth, found)
    metrics = protocol.metrics(ground_truth, category_ap) | protocol.group_metrics(category_ap, groups)
    for suffix, other in protocol.also_reported().items():
        others = other.accumulate(ground_truth, found)
        theirs = other.metrics(ground_truth, others) | other.group_metrics(others, groups)
        metrics |= {f"{name}{suffix}": points for name, points in theirs.items()}
    return Evaluation(metrics | recall_metrics(protocol, ground_truth, found, groups), category_ap)


def recall_metrics(protocol: COCO, ground_truth: GroundTruth, found: Detections, groups: Groups) -> dict[str, float]:
    """Class-agnostic recall over COCO's thresholds, of what the protocol wants found."""
    ignored, crowd = protocol.ignored(ground_truth), protocol.crowd(ground_truth)
    return class_agnostic_recall(found, ground_truth.objects, ignored, crowd, groups, COCO.thresholds)


def base_and_novel(
    ground_truth: GroundTruth, novel: Collection[str], others: Mapping[str, Collection[str]] | None = None
) -> dict[str, list[int]]:
    """Groups of categories: base, novel, and others. Raises ValueError for a name that is no category."""
    names = ground_truth.names
    groups = {"base": set(names) - set(novel), "novel": novel, **(others or {})}
    for group, members in groups.items():
        require_known(members, set(names), f'Group "{group}"', ground_truth.file)
    return {group: [i for i, name in enumerate(names) if name in members] for group, members in groups.items()}


def match_names(names: Sequence[str], ground_truth: GroundTruth) -> list[int]:
    """The category index of every prediction name. Raises ValueError where the two do not hold the same names."""
    for what, given in (("Prediction name", names), (f"{ground_truth.file}: category name", ground_truth.names)):
        repeated = [name for name, times in Counter(given).items() if times > 1]
        if repeated:
            raise ValueError(f'{what} "{repeated[0]}" occurs more than once.')
    index = {name: i for i, name in enumerate(ground_truth.names)}
    require_known(names, index, f"The {len(names)} prediction names", ground_truth.file)
    require_known(index, set(names), f"The {len(index)} categories of {ground_truth.file}", "the prediction names")
    return [index[name] for name in names]


def require_known(names: Iterable[str], known: Collection[str], what: str, where: str) -> None:
    """Raises ValueError naming the first names that are not known."""
    unknown = [name for name in names if name not in known]
    if unknown:
        first = ", ".join(f'"{name}"' for name in unknown[:3])
        raise ValueError(f"{what}: {len(unknown)} not in {where}; the first: {first}.")
