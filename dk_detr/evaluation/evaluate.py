"""Evaluates a file of results against an annotation file."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dk_detr.annotations import choose_novel, novel_of_benchmark
from dk_detr.evaluation.detections import Detections
from dk_detr.evaluation.ground_truth import GroundTruth, read_ground_truth
from dk_detr.evaluation.metrics import base_and_novel, compute_metrics
from dk_detr.evaluation.protocols import COCO, Groups, choose_protocol
from dk_detr.evaluation.results import read_results
from dk_detr.evaluation.tables import category_rows, summary, write_category_tables

logger = logging.getLogger(__name__)

IOU_TYPES = ("bbox", "segm")
USUAL_LIMIT = 300  # detections of an image, where fixed AP says nothing that AP does not


def evaluate_file(
    annotations: str,
    results: str,
    protocol: str,
    novel: Collection[str] | None = None,
    groups: Mapping[str, Collection[str]] | None = None,
    iou_type: str = "bbox",
    output_dir: str = "",
) -> dict[str, dict[str, float]]:
    """Evaluate what any detector found.

    Args:
        annotations: JSON in COCO's or LVIS v1's format. results: JSON, a list of detections, with "bbox" (xywh in
            pixels) or "segmentation" (run-length encoding or polygons). protocol: of `PROTOCOLS`.
        novel: names that training never saw; None takes those that the benchmark says (see `novel_of_benchmark`).
        groups: further named sets of names. iou_type: what is compared, "bbox" or "segm".
        output_dir: where `<protocol>_categories.csv` and `.md` go, of masks `…_categories_masks`; empty writes nothing.

    Returns: {iou_type: {metric: points}}, nan where there is no ground truth.
    Raises: FileNotFoundError; ValueError naming what in which file is wrong.
    """
    rules, truth, found, chosen = read_files(annotations, results, protocol, novel, groups, iou_type)
    if rules.also_reported() and len(found) and np.bincount(found.image).max() <= USUAL_LIMIT:
        logger.warning("%s has at most %d detections of an image; fixed AP asks for all.", results, USUAL_LIMIT)
    table = categories_file(output_dir, protocol, iou_type)
    return {iou_type: evaluate_and_report(rules, truth, found, chosen, iou_type, table)}


class Files(NamedTuple):
    """What an annotation file and a file of results say, and the rules to evaluate them by."""

    protocol: COCO
    ground_truth: GroundTruth
    found: Detections
    groups: dict[str, list[int]]  # category indices by name: "base", "novel", and others


def read_files(
    annotations: str,
    results: str,
    protocol: str,
    novel: Collection[str] | None,
    groups: Mapping[str, Collection[str]] | None,
    iou_type: str,
) -> Files:
    """Read what is to be evaluated; see `evaluate_file` for arguments and errors."""
    rules = choose_protocol(protocol)
    if iou_type not in IOU_TYPES:
        raise ValueError(f'There is no IoU type "{iou_type}"; choose one of {", ".join(IOU_TYPES)}.')
    truth = rules.accept(read_ground_truth(annotations, iou_type))
    chosen = base_and_novel(truth, _novel_names(protocol, truth) if novel is None else choose_novel(novel), groups)
    found = read_results(results, truth, iou_type)
    _tell_empty_images(found, truth, results)
    return Files(rules, truth, found, chosen)


def _novel_names(protocol: str, truth: GroundTruth) -> tuple[str, ...]:
    """As the benchmark says. Raises ValueError for a file that has no category of it."""
    categories = [{"name": name, "frequency": f} for name, f in zip(truth.names, truth.frequencies)]
    try:
        return novel_of_benchmark(protocol, categories)
    except ValueError as error:
        raise ValueError(
            f"{truth.file} has {error}; is it a file of tools/prepare_dataset.py {protocol}? For other names choose "
            'the protocol "coco", or say which are novel.'
        ) from error


def _tell_empty_images(found: Detections, truth: GroundTruth, results: str) -> None:
    """A file of results that is not whole gives low figures, and no other sign."""
    total, empty = len(truth.image_ids), len(truth.image_ids) - len(np.unique(found.image))
    if empty:
        logger.warning(
            "%d of %d images of %s have no detection in %s: their objects count as missed.",
            empty, total, truth.file, results,
        )  # fmt: skip


def evaluate_and_report(
    protocol: COCO, ground_truth: GroundTruth, found: Detections, groups: Groups, iou_type: str, table: Path | None
) -> dict[str, float]:
    """All metrics; logged, and those of each category in a table as CSV and Markdown if a file is named for it."""
    evaluation = compute_metrics(protocol, ground_truth, found, groups)
    if table:
        write_category_tables(category_rows(protocol, ground_truth, found, evaluation, set(groups["novel"])), table)
    logger.info("%s", summary(protocol, ground_truth, evaluation, groups, iou_type))
    return evaluation.metrics


def categories_file(folder: str, kind: str, iou_type: str) -> Path | None:
    """Where the table of categories goes; nowhere without a folder."""
    return Path(folder) / f"{kind}_categories{'' if iou_type == 'bbox' else '_masks'}.csv" if folder else None
