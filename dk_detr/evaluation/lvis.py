"""Scores an open-vocabulary detector on an LVIS data set: the nine LVIS numbers, and base against novel by name.

Novel is what the caller's set of names says; that rare = novel is only the convention of OV-LVIS.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from lvis import LVISEval
from tabulate import tabulate

from dk_detr.evaluation.lvis_ap import STANDARD_METRICS, group_ap, load_ground_truth, score, standard_metrics
from dk_detr.structures import write_whole

logger = logging.getLogger(__name__)

RESULTS_FILE = "lvis_results.json"  # every detection, in the LVIS result format
CATEGORIES_FILE = "lvis_categories.csv"  # one row per category


class ImageDetections(NamedTuple):
    """The detections of one image as small arrays: cheap to keep for a whole data set and to send between processes."""

    image_id: int
    boxes_xyxy_abs: np.ndarray  # (N, 4)
    scores: np.ndarray  # (N,)
    classes: np.ndarray  # (N,), index into the evaluator's names


class OpenVocabularyLVISEvaluator(DatasetEvaluator):
    """Box AP of LVIS v1 for a vocabulary with base and novel names, in Detectron2's evaluator protocol.

    `lvis.LVISEval` computes every number, so they equal the published protocol's: federated, 300 detections per image.
    Images of the annotation file that were never predicted count as images without detections.

    Args:
        annotation_file: LVIS v1 JSON.
        names: the categories in the order in which `pred_classes` counts; the same set as in the annotation file.
        novel: the names that training never saw; all others are base.
        groups: further named sets of names; each adds `AP-<group>` and `AP50-<group>`.
        output_dir: where `lvis_results.json` and `lvis_categories.csv` go; empty writes nothing.
        max_detections: per image, over all categories.

    Raises: ValueError if names and annotation file disagree, or a group holds an unknown name.
    """

    def __init__(
        self,
        annotation_file: str,
        names: Sequence[str],
        novel: Collection[str] = (),
        groups: Mapping[str, Collection[str]] | None = None,
        output_dir: str = "",
        max_detections: int = 300,
    ) -> None:
        self._annotation_file = annotation_file
        self._ground_truth = load_ground_truth(annotation_file)
        self._category_ids = _match_names(names, self._ground_truth.dataset["categories"], annotation_file)
        self._names = list(names)
        self._novel = frozenset(novel)
        base = [name for name in names if name not in self._novel]
        self._groups = {"base": base, "novel": self._novel, **(groups or {})}
        for group, members in self._groups.items():
            _require_known(members, set(names), f'Group "{group}"', annotation_file)
        self._output_dir = output_dir
        self._max_detections = max_detections
        self.reset()

    def reset(self) -> None:
        """Forget all predictions."""
        self._predictions: list[ImageDetections] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Instances]]) -> None:
        """Take one batch: `inputs` carry "image_id", `outputs` carry "instances" in the frame of the original image.

        Raises: ValueError for an unknown image id, a class without a name, a box or score that is not finite.
        """
        for image, output in zip(inputs, outputs):
            detections = _to_arrays(int(image["image_id"]), output["instances"])
            self._check(detections)
            self._predictions.append(detections)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Gather the predictions of all processes and score them on the main one.

        Returns: {"bbox": {metric: points}}, nan for groups without ground truth; None on all but the main process.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions, dst=0)
        if not comm.is_main_process():
            return None
        detections = self._one_per_image(itertools.chain(*gathered))
        rows = [row for image in detections for row in self._result_rows(image)]
        self._write(RESULTS_FILE, lambda: json.dumps(rows))  # before scoring, which adds keys to the rows
        evaluation = score(self._ground_truth, rows, self._max_detections)
        metrics = {**standard_metrics(evaluation), **self._group_metrics(evaluation)}
        self._write(CATEGORIES_FILE, lambda: self._category_table(evaluation))
        self._log(metrics)
        return OrderedDict(bbox=metrics)

    def _check(self, detections: ImageDetections) -> None:
        where, num_names = f"Image {detections.image_id}", len(self._names)
        if detections.image_id not in self._ground_truth.imgs:
            raise ValueError(f"{where} was predicted, but {self._annotation_file} has no such image id.")
        if len(detections.classes) and detections.classes.max() >= num_names:
            raise ValueError(f"{where}: pred_classes has {detections.classes.max()}, but there are {num_names} names.")
        if not (np.isfinite(detections.boxes_xyxy_abs).all() and np.isfinite(detections.scores).all()):
            raise ValueError(f"{where}: a predicted box or score is not finite; the weights are probably broken.")

    def _one_per_image(self, predictions: Iterable[ImageDetections]) -> list[ImageDetections]:
        """Drop repetitions (samplers may pad with images already seen) and say what is missing."""
        predictions = list(predictions)
        first = {image.image_id: image for image in reversed(predictions)}
        if len(first) < len(predictions):
            logger.warning("%d images were predicted more than once; the first counts.", len(predictions) - len(first))
        missing = len(self._ground_truth.imgs) - len(first)
        if missing:
            total = len(self._ground_truth.imgs)
            logger.warning("%d of %d images in %s were never predicted: their objects count as missed.", missing, total,
                           self._annotation_file)
        return [first[image_id] for image_id in sorted(first)]

    def _result_rows(self, image: ImageDetections) -> list[dict[str, Any]]:
        boxes_xywh_abs = image.boxes_xyxy_abs.astype(np.float64)
        boxes_xywh_abs[:, 2:] -= boxes_xywh_abs[:, :2]
        columns = zip(image.classes.tolist(), boxes_xywh_abs.tolist(), image.scores.tolist())
        return [
            {"image_id": image.image_id, "category_id": self._category_ids[index], "bbox": box, "score": confidence}
            for index, box, confidence in columns
        ]

    def _ids(self, names: Iterable[str]) -> list[int]:
        index = {name: i for i, name in enumerate(self._names)}
        return [self._category_ids[index[name]] for name in sorted(names)]

    def _group_metrics(self, evaluation: LVISEval) -> dict[str, float]:
        return {
            f"{metric}-{group}": group_ap(evaluation, self._ids(members), iou)
            for metric, iou in (("AP", None), ("AP50", 0.5))
            for group, members in self._groups.items()
        }

    def _object_counts(self) -> Counter[int]:
        return Counter(annotation["category_id"] for annotation in self._ground_truth.dataset["annotations"])

    def _category_table(self, evaluation: LVISEval) -> str:
        counts, text = self._object_counts(), io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["name", "frequency", "novel", "ground_truth", "AP", "AP50"])
        for name, category_id in zip(self._names, self._category_ids):
            points = [group_ap(evaluation, [category_id], iou) for iou in (None, 0.5)]
            frequency = self._ground_truth.cats[category_id]["frequency"]
            row = [name, frequency, int(name in self._novel), counts[category_id], *(f"{p:.3f}" for p in points)]
            writer.writerow(row)
        return text.getvalue()

    def _log(self, metrics: dict[str, float]) -> None:
        counts = self._object_counts()
        rows = [
            [group, metrics[f"AP-{group}"], metrics[f"AP50-{group}"], len(ids), sum(counts[i] for i in ids)]
            for group, ids in ((group, self._ids(members)) for group, members in self._groups.items())
        ]
        groups = tabulate(rows, ["group", "AP", "AP50", "categories", "objects"], "pipe", floatfmt=".2f")
        overall = create_small_table({name: metrics[name] for name in STANDARD_METRICS})
        logger.info("LVIS box AP, at most %d detections per image:\n%s\n\n%s", self._max_detections, overall, groups)

    def _write(self, name: str, text: Callable[[], str]) -> None:
        if self._output_dir:
            write_whole(Path(self._output_dir) / name, text())


def _to_arrays(image_id: int, instances: Instances) -> ImageDetections:
    def array(values: Any) -> np.ndarray:
        return values.detach().cpu().numpy()

    boxes_xyxy_abs = array(instances.pred_boxes.tensor.float())
    return ImageDetections(image_id, boxes_xyxy_abs, array(instances.scores.float()), array(instances.pred_classes))


def _match_names(names: Sequence[str], categories: list[dict[str, Any]], annotation_file: str) -> list[int]:
    """The category id of every prediction name, in the order of the names."""
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        raise ValueError(f'Prediction name "{repeated[0]}" occurs more than once.')
    by_name = {category["name"]: category["id"] for category in categories}
    _require_known(names, by_name, f"The {len(names)} prediction names", annotation_file)
    _require_known(by_name, set(names), f"The {len(by_name)} categories of {annotation_file}", "the prediction names")
    return [by_name[name] for name in names]


def _require_known(names: Iterable[str], known: Collection[str], what: str, where: str) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        first = ", ".join(f'"{name}"' for name in unknown[:3])
        raise ValueError(f"{what}: {len(unknown)} not in {where}; the first: {first}.")
